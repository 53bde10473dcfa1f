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
    __slots__ = ("hello", "offer", "open", "frame", "end", "received", "restart", "ready", "commit", "done", "working", "abort", "skip", "ask", "filler", "measured", "reconnect", "taken", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: bytes
    offer: Offer
    open: Open
    frame: Frame
    end: End
    received: Received
    restart: Restart
    ready: Ready
    commit: Commit
    done: Done
    working: Working
    abort: Abort
    skip: Skip
    ask: Ask
    filler: Filler
    measured: Measured
    reconnect: Reconnect
    taken: Taken
    bye: Bye
    def __init__(self, hello: _Optional[bytes] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., working: _Optional[_Union[Working, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., skip: _Optional[_Union[Skip, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., filler: _Optional[_Union[Filler, _Mapping]] = ..., measured: _Optional[_Union[Measured, _Mapping]] = ..., reconnect: _Optional[_Union[Reconnect, _Mapping]] = ..., taken: _Optional[_Union[Taken, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "package_version", "suite", "purpose", "party", "job", "tasks", "frame_items", "nonce", "recv_timeout_ms", "clock_ms", "bin_items", "count_items", "measures")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    FRAME_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    RECV_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    BIN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    COUNT_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    package_version: str
    suite: str
    purpose: Purpose
    party: str
    job: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskTerms]
    frame_items: int
    nonce: bytes
    recv_timeout_ms: int
    clock_ms: int
    bin_items: int
    count_items: int
    measures: bool
    def __init__(self, protocol_version: _Optional[int] = ..., package_version: _Optional[str] = ..., suite: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., party: _Optional[str] = ..., job: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskTerms, _Mapping]]] = ..., frame_items: _Optional[int] = ..., nonce: _Optional[bytes] = ..., recv_timeout_ms: _Optional[int] = ..., clock_ms: _Optional[int] = ..., bin_items: _Optional[int] = ..., count_items: _Optional[int] = ..., measures: _Optional[bool] = ...) -> None: ...

class TaskTerms(_message.Message):
    __slots__ = ("name", "receiver", "broadcast_result", "key_columns", "key_form", "forms_version", "unicode_version", "forms_probe", "phone_version", "group", "result", "protocol")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_RESULT_FIELD_NUMBER: _ClassVar[int]
    KEY_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    KEY_FORM_FIELD_NUMBER: _ClassVar[int]
    FORMS_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNICODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FORMS_PROBE_FIELD_NUMBER: _ClassVar[int]
    PHONE_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    receiver: str
    broadcast_result: bool
    key_columns: int
    key_form: _containers.RepeatedScalarFieldContainer[str]
    forms_version: int
    unicode_version: str
    forms_probe: bytes
    phone_version: str
    group: str
    result: str
    protocol: str
    def __init__(self, name: _Optional[str] = ..., receiver: _Optional[str] = ..., broadcast_result: _Optional[bool] = ..., key_columns: _Optional[int] = ..., key_form: _Optional[_Iterable[str]] = ..., forms_version: _Optional[int] = ..., unicode_version: _Optional[str] = ..., forms_probe: _Optional[bytes] = ..., phone_version: _Optional[str] = ..., group: _Optional[str] = ..., result: _Optional[str] = ..., protocol: _Optional[str] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("task", "kept")
    TASK_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    task: int
    kept: Kept
    def __init__(self, task: _Optional[int] = ..., kept: _Optional[_Union[Kept, _Mapping]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("partition_sid", "own_count", "peer_count", "bins", "finished", "complete")
    PARTITION_SID_FIELD_NUMBER: _ClassVar[int]
    OWN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PEER_COUNT_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    partition_sid: bytes
    own_count: int
    peer_count: int
    bins: int
    finished: bytes
    complete: bool
    def __init__(self, partition_sid: _Optional[bytes] = ..., own_count: _Optional[int] = ..., peer_count: _Optional[int] = ..., bins: _Optional[int] = ..., finished: _Optional[bytes] = ..., complete: _Optional[bool] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("task", "failure_class")
    TASK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    task: int
    failure_class: int
    def __init__(self, task: _Optional[int] = ..., failure_class: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("task", "count", "probe")
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    task: int
    count: int
    probe: bytes
    def __init__(self, task: _Optional[int] = ..., count: _Optional[int] = ..., probe: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("task", "bin", "attempt", "stream", "seq", "data")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BIN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    task: int
    bin: int
    attempt: int
    stream: int
    seq: int
    data: bytes
    def __init__(self, task: _Optional[int] = ..., bin: _Optional[int] = ..., attempt: _Optional[int] = ..., stream: _Optional[int] = ..., seq: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("task", "bin", "attempt", "stream", "count", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BIN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    bin: int
    attempt: int
    stream: int
    count: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., bin: _Optional[int] = ..., attempt: _Optional[int] = ..., stream: _Optional[int] = ..., count: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ("task", "bin", "attempt", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BIN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    bin: int
    attempt: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., bin: _Optional[int] = ..., attempt: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Restart(_message.Message):
    __slots__ = ("task", "bin", "attempt")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BIN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    task: int
    bin: int
    attempt: int
    def __init__(self, task: _Optional[int] = ..., bin: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: int
    def __init__(self, task: _Optional[int] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("task", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("task", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: int
    digest: bytes
    def __init__(self, task: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Working(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Abort(_message.Message):
    __slots__ = ("failure_class",)
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    failure_class: int
    def __init__(self, failure_class: _Optional[int] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("octets",)
    OCTETS_FIELD_NUMBER: _ClassVar[int]
    octets: int
    def __init__(self, octets: _Optional[int] = ...) -> None: ...

class Filler(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("round_trip_us", "bytes_per_second", "hash_and_mask", "mask", "machine")
    ROUND_TRIP_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    HASH_AND_MASK_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    round_trip_us: int
    bytes_per_second: int
    hash_and_mask: int
    mask: int
    machine: bytes
    def __init__(self, round_trip_us: _Optional[int] = ..., bytes_per_second: _Optional[int] = ..., hash_and_mask: _Optional[int] = ..., mask: _Optional[int] = ..., machine: _Optional[bytes] = ...) -> None: ...

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
