"""The venue table: the one that is shipped, exact rates, the default row, one clear error per way to get it wrong."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sor.errors import UsageError
from sor.venues import Venue, parse_venues

SHIPPED = Path(__file__).parents[1] / "sor" / "venues.toml"
DEFAULT = """
[default]
taker_fee = 0.0030
maker_rebate = 0.0
as_of = 2024-08-01
source = "the cap"
"""
AAAA = """
[[venue]]
publisher_id = 7
name = "AAAA"
taker_fee = -0.0002
maker_rebate = 0.00285
as_of = 2024-08-01
source = "AAAA: Fee Schedule"
"""
MICS = {
    **{2: "XNAS", 3: "XBOS", 4: "XPSX", 5: "BATS", 6: "BATY", 7: "EDGA", 8: "EDGX", 9: "XNYS", 10: "XCIS", 11: "XASE"},
    **{12: "XCHI", 15: "MEMX", 16: "EPRL", 17: "FINN", 18: "FINC", 19: "FINY", 38: "IEXG", 43: "ARCX"},
}
PRINTS_ONLY = {17, 18, 19}


@pytest.fixture(scope="module")
def shipped():
    return parse_venues(SHIPPED.read_text(encoding="utf-8"))


def refusal(toml_text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_venues(toml_text)
    return str(caught.value)


def with_fee(fee: str) -> str:
    return DEFAULT + AAAA.replace("taker_fee = -0.0002", f"taker_fee = {fee}")


# --- the table that is shipped ------------------------------------------------------------------------------------


def test_shipped_table_names_every_publisher_of_us_equities_top_of_book(shipped):
    assert {venue.publisher_id: venue.name for venue in shipped.venues} == MICS


def test_shipped_table_routes_everywhere_but_to_prints(shipped):
    ids = sorted(MICS)
    assert shipped.routable(ids).tolist() == [each not in PRINTS_ONLY for each in ids]
    assert shipped.default.routable


def test_shipped_rates_have_source_and_date_and_keep_to_the_access_fee_cap(shipped):
    for venue in (*shipped.venues, shipped.default):
        assert len(venue.source) > 10
        assert date(2020, 1, 1) <= venue.as_of <= date(2026, 12, 31)
        assert venue.taker_fee_e6 <= 3000, "Rule 610(c) as it was on these dates"
        assert venue.maker_rebate_e6 <= max(venue.taker_fee_e6, 0), "base rebates are paid out of the taker's fee"


def test_shipped_table_says_which_figures_were_read_at_the_source(shipped):
    confirmed = {venue.name for venue in shipped.venues if venue.confirmed and venue.routable}
    assert confirmed == {"XBOS", "XPSX", "XASE", "MEMX", "EPRL"}


def test_shipped_default_is_never_cheaper_to_take_from_than_a_known_venue(shipped):
    assert shipped.default.taker_fee_e6 == max(venue.taker_fee_e6 for venue in shipped.venues)
    assert shipped.default.maker_rebate_e6 == 0


# --- rates and look-up --------------------------------------------------------------------------------------------


def test_one_venue_is_read_field_by_field():
    (venue,) = parse_venues(DEFAULT + AAAA).venues
    assert venue == Venue(7, "AAAA", -200, 2850, date(2024, 8, 1), "AAAA: Fee Schedule", routable=True, confirmed=True)


def test_flags_of_an_entry_are_kept():
    (venue,) = parse_venues(DEFAULT + AAAA + "routable = false\nconfirmed = false").venues
    assert (venue.routable, venue.confirmed) == (False, False)


def test_arrays_follow_the_ids_asked_for_with_default_rates_for_the_unknown():
    table = parse_venues(DEFAULT + AAAA + "routable = false")
    ids = np.array([123, 7, 123, 9])
    assert table.names(ids) == ("PUB123", "AAAA", "PUB123", "PUB9")
    np.testing.assert_array_equal(table.fees_e6(ids), [3000, -200, 3000, 3000], strict=True)
    np.testing.assert_array_equal(table.rebates_e6(ids), [0, 2850, 0, 0], strict=True)
    np.testing.assert_array_equal(table.routable(ids), [True, False, True, True], strict=True)


def test_no_ids_give_empty_arrays_of_the_right_type():
    table = parse_venues(DEFAULT)
    assert (table.fees_e6([]).dtype, table.rebates_e6([]).dtype, table.routable([]).dtype) == (np.int64, np.int64, bool)
    assert table.names([]) == ()


def test_unknown_id_gets_the_default_row_under_its_own_id_and_name():
    row = parse_venues(DEFAULT + AAAA).row(np.int64(123))
    assert row == Venue(123, "PUB123", 3000, 0, date(2024, 8, 1), "the cap")
    assert type(row.publisher_id) is int


def test_table_and_rows_cannot_be_changed():
    table = parse_venues(DEFAULT + AAAA)
    with pytest.raises(FrozenInstanceError):
        table.default = table.venues[0]
    with pytest.raises(FrozenInstanceError):
        table.row(7).taker_fee_e6 = 0


@given(st.integers(-10_000, 10_000))
def test_every_micro_dollar_within_the_bound_is_read_exactly(fee_e6):
    written = Decimal(fee_e6).scaleb(-6)
    assert parse_venues(with_fee(f"{written:f}")).fees_e6([7]).tolist() == [fee_e6]
    assert parse_venues(with_fee(f"{fee_e6}.0e-6")).fees_e6([7]).tolist() == [fee_e6]


@given(st.integers(0, 9_999), st.integers(1, 9), st.integers(0, 60))
def test_no_fee_finer_than_a_micro_dollar_is_rounded(fee_e6, digit, zeros):
    assert "must be a multiple of 0.000001" in refusal(with_fee(f"0.00{fee_e6:04d}{'0' * zeros}{digit}"))


def test_whole_number_is_a_fee():
    assert parse_venues(with_fee("0")).fees_e6([7]).tolist() == [0]


# --- errors: entry, field, what was found, what it must be --------------------------------------------------------


def test_text_that_is_not_toml():
    assert "not TOML" in (message := refusal(DEFAULT + "publisher_id 7"))
    assert "line 7" in message


@pytest.mark.parametrize("exponent", ["1e99999999999999999999", "1e-99999999999999999999"])
def test_number_that_no_decimal_can_hold(exponent):
    assert "number out of all range" in refusal(with_fee(exponent))


def test_no_default_row():
    assert refusal(AAAA) == "venue table, the file: default is missing, must be given"


@pytest.mark.parametrize("field", ["publisher_id", "name", "taker_fee", "maker_rebate", "as_of", "source"])
def test_missing_field_of_a_venue(field):
    rest = "\n".join(line for line in AAAA.splitlines() if not line.startswith(field))
    label = "[[venue]] entry 1" if field == "name" else "[[venue]] entry 1 (AAAA)"
    assert refusal(DEFAULT + rest) == f"venue table, {label}: {field} is missing, must be given"


@pytest.mark.parametrize("field", ["taker_fee", "maker_rebate", "as_of", "source"])
def test_missing_field_of_the_default(field):
    rest = "\n".join(line for line in DEFAULT.splitlines() if not line.startswith(field))
    assert refusal(rest) == f"venue table, [default]: {field} is missing, must be given"


@pytest.mark.parametrize(
    ("right", "wrong", "shown", "must"),
    [
        ("publisher_id = 7", 'publisher_id = "7"', "'7'", "a whole number from 0 to 65535"),
        ("publisher_id = 7", "publisher_id = true", "True", "a whole number from 0 to 65535"),
        ("publisher_id = 7", "publisher_id = 7.0", "7.0", "a whole number from 0 to 65535"),
        ("publisher_id = 7", "publisher_id = -1", "-1", "a whole number from 0 to 65535"),
        ("publisher_id = 7", "publisher_id = 65536", "65536", "a whole number from 0 to 65535"),
        ("maker_rebate = 0.00285", 'maker_rebate = "free"', "'free'", "a finite number of USD per share"),
        ("maker_rebate = 0.00285", "maker_rebate = false", "False", "a finite number of USD per share"),
        ("as_of = 2024-08-01", 'as_of = "2024-08-01"', "'2024-08-01'", "a date without quotes, like 2024-08-01"),
        ("as_of = 2024-08-01", "as_of = 2024-08-01T09:30:00", "2024-08-01 09:30:00", "a date without quotes"),
        ('source = "AAAA: Fee Schedule"', 'source = " "', "' '", "a text that is not empty"),
        ('source = "AAAA: Fee Schedule"', "source = 5", "5", "a text that is not empty"),
        ('source = "AAAA: Fee Schedule"', 'source = "x"\nroutable = "no"', "'no'", "true or false"),
        ('source = "AAAA: Fee Schedule"', 'source = "x"\nconfirmed = 0', "0", "true or false"),
    ],
)
def test_value_of_the_wrong_type(right, wrong, shown, must):
    field = wrong.splitlines()[-1].split(" = ")[0]
    message = refusal(DEFAULT + AAAA.replace(right, wrong))
    assert message.startswith(f"venue table, [[venue]] entry 1 (AAAA): {field} is {shown}, must be {must}")


def test_name_that_is_not_a_text():
    message = refusal(DEFAULT + AAAA.replace('"AAAA"', "4"))
    assert message == "venue table, [[venue]] entry 1: name is 4, must be a text that is not empty, of one line"


@pytest.mark.parametrize("fee", ["nan", "inf", "-inf"])
def test_fee_that_is_not_finite(fee):
    assert "(AAAA): taker_fee is" in (message := refusal(with_fee(fee)))
    assert "must be a finite number of USD per share" in message


@pytest.mark.parametrize("fee", ["0.010001", "-0.010001", "0.30", "3", "1e999999", "9999999999999999999999999999999"])
def test_fee_beyond_a_cent_per_share(fee):
    message = refusal(with_fee(fee))
    assert "(AAAA): taker_fee is" in message
    assert message.endswith("must be USD per share between -0.01 and 0.01")


@pytest.mark.parametrize("fee", ["0.0000005", "-0.00300001", "1e-999999", "0.0030000000000000000000000000000000000001"])
def test_fee_finer_than_a_micro_dollar(fee):
    message = refusal(with_fee(fee))
    assert "(AAAA): taker_fee is" in message
    assert message.endswith("must be a multiple of 0.000001 USD per share")


def test_fee_of_a_cent_per_share_is_still_allowed():
    assert parse_venues(with_fee("-0.01")).fees_e6([7]).tolist() == [-10_000]


def test_publisher_id_given_twice():
    message = refusal(DEFAULT + AAAA + AAAA.replace("AAAA", "BBBB"))
    assert message == (
        "venue table, [[venue]] entry 2 (BBBB): publisher_id is 7, must be different from that of entry 1"
    )


@pytest.mark.parametrize(
    ("text", "where", "key"),
    [
        (DEFAULT + AAAA + "taker_fees = 0.003", "[[venue]] entry 1 (AAAA)", "taker_fees"),
        (DEFAULT + "publisher_id = 5" + AAAA, "[default]", "publisher_id"),
        (DEFAULT + AAAA.replace("[[venue]]", "[[venues]]"), "the file", "venues"),
    ],
)
def test_unknown_key(text, where, key):
    assert refusal(text).startswith(f"venue table, {where}: {key} is unknown, must be one of ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = 1", "venue table, [default]: is 1, must be a table of fields"),
        ("venue = [2]" + DEFAULT, "venue table, [[venue]] entry 1: is 2, must be a table of fields"),
        ("venue = 2" + DEFAULT, "venue table, the file: venue is 2, must be given as [[venue]], with double brackets"),
    ],
)
def test_entry_that_is_not_a_table(text, message):
    assert refusal(text) == message
