from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_RUN: _ClassVar[Purpose]
    PURPOSE_CHECK: _ClassVar[Purpose]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_RUN: Purpose
PURPOSE_CHECK: Purpose

class Envelope(_message.Message):
    __slots__ = ("hello", "open", "chunk", "end", "received", "ready", "commit", "done", "ack", "abort", "reconnect", "taken", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: bytes
    open: Open
    chunk: Chunk
    end: End
    received: TaskMark
    ready: TaskMark
    commit: TaskMark
    done: TaskMark
    ack: Ack
    abort: Abort
    reconnect: Reconnect
    taken: Taken
    bye: Bye
    def __init__(self, hello: _Optional[bytes] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., received: _Optional[_Union[TaskMark, _Mapping]] = ..., ready: _Optional[_Union[TaskMark, _Mapping]] = ..., commit: _Optional[_Union[TaskMark, _Mapping]] = ..., done: _Optional[_Union[TaskMark, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., reconnect: _Optional[_Union[Reconnect, _Mapping]] = ..., taken: _Optional[_Union[Taken, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "package_version", "suite", "purpose", "party", "job", "tasks", "chunk_items", "nonce", "recv_timeout_ms", "clock_ms")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    RECV_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    package_version: str
    suite: str
    purpose: Purpose
    party: str
    job: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskTerms]
    chunk_items: int
    nonce: bytes
    recv_timeout_ms: int
    clock_ms: int
    def __init__(self, protocol_version: _Optional[int] = ..., package_version: _Optional[str] = ..., suite: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., party: _Optional[str] = ..., job: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskTerms, _Mapping]]] = ..., chunk_items: _Optional[int] = ..., nonce: _Optional[bytes] = ..., recv_timeout_ms: _Optional[int] = ..., clock_ms: _Optional[int] = ...) -> None: ...

class TaskTerms(_message.Message):
    __slots__ = ("name", "receiver", "broadcast_result", "key_columns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_RESULT_FIELD_NUMBER: _ClassVar[int]
    KEY_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    name: str
    receiver: str
    broadcast_result: bool
    key_columns: int
    def __init__(self, name: _Optional[str] = ..., receiver: _Optional[str] = ..., broadcast_result: _Optional[bool] = ..., key_columns: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("task", "count", "probe", "resume")
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    task: int
    count: int
    probe: bytes
    resume: ResumeOffer
    def __init__(self, task: _Optional[int] = ..., count: _Optional[int] = ..., probe: _Optional[bytes] = ..., resume: _Optional[_Union[ResumeOffer, _Mapping]] = ...) -> None: ...

class ResumeOffer(_message.Message):
    __slots__ = ("task_sid", "own_count", "peer_count", "offsets", "complete")
    TASK_SID_FIELD_NUMBER: _ClassVar[int]
    OWN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PEER_COUNT_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    task_sid: bytes
    own_count: int
    peer_count: int
    offsets: _containers.RepeatedCompositeFieldContainer[StreamOffset]
    complete: bool
    def __init__(self, task_sid: _Optional[bytes] = ..., own_count: _Optional[int] = ..., peer_count: _Optional[int] = ..., offsets: _Optional[_Iterable[_Union[StreamOffset, _Mapping]]] = ..., complete: _Optional[bool] = ...) -> None: ...

class StreamOffset(_message.Message):
    __slots__ = ("stream", "frames", "digest")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    stream: int
    frames: int
    digest: bytes
    def __init__(self, stream: _Optional[int] = ..., frames: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("task", "stream", "seq", "data")
    TASK_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    task: int
    stream: int
    seq: int
    data: bytes
    def __init__(self, task: _Optional[int] = ..., stream: _Optional[int] = ..., seq: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("task", "stream", "count", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    stream: int
    count: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., stream: _Optional[int] = ..., count: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class TaskMark(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: int
    def __init__(self, task: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("task", "stream", "frames", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    stream: int
    frames: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., stream: _Optional[int] = ..., frames: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("failure_class",)
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    failure_class: int
    def __init__(self, failure_class: _Optional[int] = ...) -> None: ...

class Reconnect(_message.Message):
    __slots__ = ("sid", "attempt", "messages")
    SID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    sid: bytes
    attempt: int
    messages: int
    def __init__(self, sid: _Optional[bytes] = ..., attempt: _Optional[int] = ..., messages: _Optional[int] = ...) -> None: ...

class Taken(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
