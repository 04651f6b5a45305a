"""What the store, or the driver, says where it does not do what it was asked: as one of our errors.

Everything that clickhouse-connect raises becomes a StoreError here and nowhere else. Row contents never enter
an error: of a refused insert only ClickHouse's code and its name are in_its_words.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from clickhouse_connect.driver import exceptions as driver
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from gateway.errors import StoreError, StoreRefusedError, StoreUnreachableError
from gateway.traces.target import Target

_NAMED_CODE = re.compile(r"Code: (\d+)\. .*\(([A-Z0-9_]+)\)", re.DOTALL)
_LATE_ERROR = re.compile(r"Code: \d+\. .*", re.DOTALL)
# ClickHouse's codes (its src/Common/ErrorCodes.cpp). What it says when the rows themselves are at fault:
_DATA_CODES = frozenset(
    {
        *(6, 20, 25, 26, 27, 33, 34, 38, 41, 53, 69, 70, 72, 117, 130, 131),  # cannot be parsed or converted
        *(190, 321, 349, 407, 441),  # sizes of arrays, ranges, NULL where there is none, decimals, UUIDs
        469,  # VIOLATED_CONSTRAINT
    }
)
# What it says when it would say the same of any rows:
_STORE_CODES = frozenset(
    {
        *(16, 47, 60, 81, 115, 218, 390),  # a table, column, database or setting that is not there (yet)
        *(74, 75, 76, 77, 88, 243, 424, 425, 499),  # files, disks, objects in a bucket
        *(159, 160, 209, 210, 279, 394),  # deadlines, the network, a killed statement
        *(173, 241, 201, 202, 203, 252, 439, 574),  # memory, quotas, too much at once
        *(192, 193, 194, 497, 516),  # who we are, and what we may
        *(164, 225, 242, 285, 286, 289, 319, 999),  # read-only tables, replicas, Keeper
        *(236, 473),  # stopping, and locks
    }
)
_NO_SPACE = 243
UNWRITABLE = (driver.DataError, driver.ProgrammingError, ValueError, TypeError, OverflowError, struct.error)


def nothing_was_sent(error: BaseException) -> bool:
    """Whether no connection came about."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectTimeoutError | NewConnectionError):
        cause = cause.__cause__
    return cause is not None


def store_error(error: Exception, tell: Callable[[Exception], str], target: Target) -> StoreError:
    """*error* of the driver or of ClickHouse at *target*, and whose fault it is; *tell* words a refusal."""
    code = getattr(error, "code", None)
    match = _NAMED_CODE.search(str(error))
    code = code or (int(match[1]) if match else None)
    if code is None and isinstance(error, driver.OperationalError):
        return StoreUnreachableError(f"the store at {target.place} does not answer; {target.remedy}")
    # Without a code the rows never left: clickhouse-connect could not write them down.
    about_data = code in _DATA_CODES or (code is None and isinstance(error, UNWRITABLE))
    # What has no code and is not about the rows did not come from ClickHouse: a proxy's page, say.
    about_store = code in _STORE_CODES or (code is None and not about_data)
    return StoreRefusedError(
        target.hide(tell(error)), code=code, about_data=about_data, about_store=about_store
    )


def in_its_words(error: Exception) -> str:
    """*error* in ClickHouse's own words, on one line."""
    return words_of(str(error))


def words_of(text: str) -> str:
    """What ClickHouse says in *text*, on one line."""
    match = _LATE_ERROR.search(text)
    words = " ".join((match[0] if match else text).replace("__exception__", "").split())
    return f"the store refused: {words}"


def by_code(error: Exception) -> str:
    """ClickHouse's code and its name, without its words, which may quote rows."""
    match = _NAMED_CODE.search(str(error))
    if match is None:
        return type(error).__name__
    code = f"code {match[1]}, {match[2]}"
    return f"{code}; free some where the store keeps its data" if int(match[1]) == _NO_SPACE else code
