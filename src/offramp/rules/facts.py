"""What a verdict is about: the chip (ChipFacts), the act (Context), and how the rules are read (Settings)."""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

from offramp.core import units
from offramp.core.errors import InputError, near_miss_hint
from offramp.core.figure import Figure
from offramp.core.record import Record
from offramp.rules.formulas import BITS, Aggregation
from offramp.rules.records import JurisdictionChoice

Item = Literal["ic", "hbm", "wafer", "computer"]
Buyer = Literal[
    "private", "platform", "state-owned", "state-funded", "university", "government", "military", "listed-affiliate"
]
Route = Literal["from-us", "re-export", "in-country"]
Use = Literal["buy", "operate", "analyse", "rent"]
Classification = Literal["unstated", "3A090", "3A090.a", "3A090.b", "not-3A090"]

_BUYER_WORDS: Final = {
    "": "private", "firm": "private", "company": "private", "private-firm": "private", "internet": "platform",
    "internet-platform": "platform", "large-platform": "platform", "tech": "platform", "cloud": "platform",
    "soe": "state-owned", "state": "state-owned", "state-operator": "state-owned", "state-owned-enterprise":
    "state-owned", "telecom": "state-owned", "public": "state-funded", "state-dc": "state-funded",
    "publicly-owned": "state-funded", "research": "university", "academic": "university", "security": "government",
    "agency": "government", "affiliate": "listed-affiliate", "entity-list": "listed-affiliate",
    "entity-list-affiliate": "listed-affiliate", "listed": "listed-affiliate",
}  # fmt: skip
_USE_WORDS: Final = {
    "": "buy", "purchase": "buy", "import": "buy", "order": "buy", "export": "buy", "use": "operate", "run": "operate",
    "deploy": "operate", "keep": "operate", "analyze": "analyse", "analysis": "analyse", "evaluate": "analyse",
    "test": "analyse", "cloud": "rent", "remote": "rent", "remote-access": "rent",
}  # fmt: skip
_ROUTE_WORDS: Final = {
    "": "from-us", "us": "from-us", "direct": "from-us", "from us": "from-us", "reexport": "re-export",
    "re export": "re-export", "transfer": "in-country", "in-country-transfer": "in-country",
}  # fmt: skip


class Peak(Record):
    """Dense peak of one data type.

    Attributes:
        bits: bit length of an operation as printed by the source; None takes the data type's.
    """

    dtype: str
    figure: Figure
    bits: float | None = None


class Statement(Record):
    """A classification that an authority or the vendor stated; it beats the formulas.

    Attributes:
        value: "3A090" where Commerce called for a licence without a tier, "not-3A090" where it was sold as compliant.
    """

    value: Classification
    by: str
    source: str
    url: str
    as_of: dt.date


class ChipFacts(Record):
    """What the rules need to know of a chip. Every number is a figure; None means that no source gives it.

    Attributes:
        id: catalogue id; "" for a chip that only the caller knows.
        datacenter: designed or marketed for data centres; None = unknown.
        prc_designed: designed by an organisation headquartered in mainland China, Hong Kong or Macau.
        peaks: dense peaks by data type.
        tpp: stated total processing performance, used where no peaks are given.
        tpp_below: exclusive upper bound of TPP, where only that is known ("below 4800 by design").
        die_area: applicable die area in mm2; for HBM the area of package or stack.
        io_die_area: area of further logic dies (I/O, base); counted or not by ``Settings.die_area``.
        io_bandwidth: aggregate, both directions.
    """

    id: str = ""
    name: str = ""
    vendor: str = ""
    item: Item = "ic"
    datacenter: bool | None = None
    prc_designed: bool = False
    statement: Statement | None = None
    peaks: tuple[Peak, ...] = ()
    tpp: Figure | None = None
    tpp_below: float | None = None
    die_area: Figure | None = None
    io_die_area: Figure | None = None
    dram_bandwidth: Figure | None = None
    io_bandwidth: Figure | None = None
    app_wt: Figure | None = None
    node_nm: Figure | None = None
    transistors: Figure | None = None
    has_hbm: bool = False
    attested: bool = False
    packaged_outside_d5: bool = False
    launched: dt.date | None = None
    notes: tuple[str, ...] = ()


class Context(Record):
    """Who does what, where, and by which way. Countries are ISO codes; Hong Kong is HK, Macau MO.

    Attributes:
        headquarters: of the organisation that receives or uses the chip.
        parent: country of its ultimate parent; "" means the same as the headquarters.
        destination: where the chip goes or stands; "" means the headquarters.
        buyer: class of the buyer.
        route: way of the chip to the destination.
        use: "buy" brings a chip in; "operate" uses one that is installed; "rent" is remote access.
        site: province or city of the site, for local rules.
        project_complete: share of the project that is built; None = unknown. A purchase for a state-funded buyer
            without it is taken as a new project (0).
        foreign_share: share of foreign chips at the site or operator after the act; None = unknown.
        listed_ownership: share owned by parties on the Entity, MEU or SDN lists; None is taken as none.
        us_nexus: whether US persons or US-controlled firms are involved.
        jurisdiction: whose rules to ask.
        include_drafts: take drafts and bills as if adopted.
    """

    headquarters: str = "CN"
    parent: str = ""
    destination: str = ""
    buyer: Buyer = "private"
    route: Route = "from-us"
    use: Use = "buy"
    site: str = ""
    project_complete: float | None = None
    foreign_share: float | None = None
    listed_ownership: float | None = None
    us_nexus: bool = False
    jurisdiction: JurisdictionChoice = "both"
    include_drafts: bool = False

    @property
    def destination_country(self) -> str:
        """Where the chip goes."""
        return self.destination or self.headquarters

    @property
    def parent_country(self) -> str:
        """Country of the ultimate parent."""
        return self.parent or self.headquarters


class Settings(Record):
    """Points of interpretation on which readers of the rules differ.

    Attributes:
        tf32_bits: bit length of TF32 (32 as stored, 19 as significant).
        die_area: "as-published" takes the area that published classifications use; "all-logic" adds I/O and base
            dies on a non-planar node, as the Technical Note's letter has it.
        aggregation: how "aggregated over all processing units" is read; see
            :func:`offramp.rules.formulas.total_processing_performance`.
        offshore_review: review policy for a foreign site of a Chinese-parented firm: "denial" (the January 2026
            case-by-case policy covers exports to China and Macau only) or "as-china".
    """

    tf32_bits: Literal[32, 19] = 32
    die_area: Literal["as-published", "all-logic"] = "as-published"
    aggregation: Aggregation = "max-concurrent"
    offshore_review: Literal["denial", "as-china"] = "denial"

    def bits(self, peak: Peak) -> float:
        """Bit length of a peak's operations."""
        if peak.dtype == "tf32":
            return self.tf32_bits
        return BITS[peak.dtype] if peak.bits is None else peak.bits


def _choose(text: str, words: dict[str, str], known: tuple[str, ...], what: str, where: str) -> str:
    plain = text.strip().lower().replace("_", "-")
    plain = words.get(plain, words.get(plain.replace(" ", "-"), plain.replace(" ", "-")))
    if plain not in known:
        hint = near_miss_hint(plain, known) or f"Known: {', '.join(known)}."
        raise InputError(f'unknown {what} "{text}"', where=where, mend=hint)
    return plain


BUYERS: Final[tuple[Buyer, ...]] = (
    "private", "platform", "state-owned", "state-funded", "university", "government", "military", "listed-affiliate",
)  # fmt: skip
ROUTES: Final[tuple[Route, ...]] = ("from-us", "re-export", "in-country")
USES: Final[tuple[Use, ...]] = ("buy", "operate", "analyse", "rent")


def buyer_of(text: str, *, where: str = "") -> Buyer:
    """The buyer class of a word as people write it ("SOE" is state-owned).

    Raises:
        InputError: unknown word.
    """
    found = _choose(text, _BUYER_WORDS, BUYERS, "buyer", where)
    return next(buyer for buyer in BUYERS if buyer == found)


def route_of(text: str, *, where: str = "") -> Route:
    """The route of a word; empty means from the US.

    Raises:
        InputError: unknown word.
    """
    found = _choose(text, _ROUTE_WORDS, ROUTES, "route", where)
    return next(route for route in ROUTES if route == found)


def use_of(text: str, *, where: str = "") -> Use:
    """The use of a word; empty means buy.

    Raises:
        InputError: unknown word.
    """
    found = _choose(text, _USE_WORDS, USES, "use", where)
    return next(use for use in USES if use == found)


_COUNTRY_WORDS: Final = {
    "CHINA": "CN", "PRC": "CN", "MAINLAND CHINA": "CN", "USA": "US", "UNITED STATES": "US", "HONG KONG": "HK",
    "MACAU": "MO", "MACAO": "MO", "UK": "GB", "UNITED KINGDOM": "GB", "TAIWAN": "TW", "SINGAPORE": "SG",
    "MALAYSIA": "MY", "UAE": "AE", "GERMANY": "DE", "JAPAN": "JP", "INDIA": "IN", "SAUDI ARABIA": "SA",
}  # fmt: skip


def country_of(text: str, *, where: str = "") -> str:
    """The ISO code of a country as people write it; "" stays "".

    Raises:
        InputError: not a two-letter code and not a country name known here.
    """
    plain = text.strip().upper()
    plain = _COUNTRY_WORDS.get(plain, plain)
    if plain and not (len(plain) == 2 and plain.isalpha()):
        raise InputError(f'"{text}" is not a country', where=where, mend='Write the two-letter code, as in "CN".')
    return plain


def given(value: float, unit: str, source: str, as_of: dt.date) -> Figure:
    """A figure that the caller states; nobody vouches for it but the caller."""
    return Figure(value=value, unit=unit, source=source, as_of=as_of, confidence="assumed", low=value, high=value)


def gb_per_s(figure: Figure) -> float:
    """Bandwidth in GB/s, as the rules print it."""
    return figure.si / units.GIGA
