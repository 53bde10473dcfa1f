"""The JSON Schemas of the job file and the batch file. Not imported by a run: what makes schemas is slow to import."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from psicli.config.batch.models import BatchFile
from psicli.config.models import JobFile


class SchemaOfUsers(GenerateJsonSchema):
    """Generate a JSON Schema without null: users leave an optional field out and never write null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file as users write it."""
    return _schema(JobFile)


def batch_schema() -> dict[str, Any]:
    """Return the JSON Schema of a batch file as users write it."""
    return _schema(BatchFile)


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=SchemaOfUsers)
    return {"$schema": SchemaOfUsers.schema_dialect, **schema}
