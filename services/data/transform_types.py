"""The transforms that this release has, with what can be set of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from services.data.transform_parameters import Parameter


@dataclass(frozen=True)
class Type:
    """A transform that this release has: `services.data.job.<name>`."""

    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    version: int = 1
    """Raised when the same parameters come to mean something else."""
    inputs: tuple[str, ...] = ()
    """Further versions that it needs, by name."""
    keyed: bool = False
    """Its job is given a secret of the project."""
    by_rows: bool = False
    """Most of its work is done row by row, so that a cluster can share it: services.data.job.engine."""


_SEED = Parameter(0, "Of everything random: the same seed makes the same version.", low=0, high=2**53)
_COLUMNS = Parameter((), "Which columns; all that fit where empty.")
PII_KINDS = (
    "email",
    "iban",
    "card",
    "national_id_ch",
    "national_id_us",
    "national_id_es",
    "national_id_fr",
    "national_id_it",
    "national_id_pl",
    "national_id_de",
    "ip",
    "phone",
)
"""What is found in texts, the surest first: where two overlap, the first counts."""
_KINDS = Parameter((), "What is looked for in texts; all kinds where empty.", choices=PII_KINDS)

_CLEAN = Type(
    "Repair, or put aside with reasons, what is wrong with it.",
    {
        "rules": Parameter(
            {}, "Column to what it must be: {age: {type: integer, min: 0, max: 120, required: true}}."
        ),
        "missing": Parameter(
            "keep",
            "Rows without a value: kept, put aside, or filled as the training part has the column.",
            choices=("keep", "quarantine", "mean", "median", "mode"),
        ),
        "outliers": Parameter(
            "keep",
            "Numbers far from the others: kept, put aside, or moved to the bound.",
            choices=("keep", "quarantine", "clip"),
        ),
        "outlier_bound": Parameter(
            3.0, "Interquartile ranges beyond the quartiles from which a number is one.", low=0, high=1e6
        ),
        "duplicates": Parameter(
            "quarantine", "Rows that are there before: kept, or put aside.", choices=("keep", "quarantine")
        ),
        "near_duplicates": Parameter(
            0.0,
            "Likeness of texts or images from which the later one is put aside; 0 looks for none.",
            low=0,
            high=1,
        ),
        "near_columns": Parameter((), "Where near duplicates are looked for; texts and images where empty."),
        "label_errors": Parameter("", "Column of labels in which mistakes are looked for."),
        "poisoned": Parameter(
            "", "Column of labels whose classes are searched for rows with signs of a backdoor."
        ),
        "leakage": Parameter(default=True, summary="Put aside rows of train that another part has too."),
        "columns": Parameter((), "Where missing values and outliers are looked for; all where empty."),
        "seed": _SEED,
    },
    by_rows=True,
)
_SPLIT = Type(
    "Divide it into parts, such as train and test.",
    {
        "parts": Parameter({"train": 0.8, "test": 0.2}, "Name to share."),
        "by": Parameter(
            "random",
            "At random, with the label's shares in each part, whole groups together, or by time.",
            choices=("random", "stratified", "group", "time"),
        ),
        "column": Parameter("", "The label, group or time that it is divided by."),
        "seed": _SEED,
    },
)
_AUGMENT = Type(
    "Make more rows of those that the training part has.",
    {
        "method": Parameter(
            "images",
            "Flips, crops and colours; RandAugment; words; time series; SMOTE for rare classes of a table.",
            choices=("images", "rand_augment", "text", "series", "smote"),
        ),
        "copies": Parameter(1, "Changed copies of each row; SMOTE makes what classes lack.", low=1, high=100),
        "strength": Parameter(0.2, "How much is changed.", low=0, high=1),
        "target": Parameter("", "Column of the classes, for SMOTE."),
        "neighbours": Parameter(5, "Of the same class that SMOTE goes towards.", low=1, high=100),
        "columns": _COLUMNS,
        "seed": _SEED,
    },
)
TYPES: Mapping[str, Type] = MappingProxyType(
    {
        "profile": Type(
            "Say what is in it: types, nulls, uniques, quantiles, histograms, correlations.",
            {
                "columns": _COLUMNS,
                "bins": Parameter(20, "Of each histogram.", low=2, high=200),
                "top": Parameter(10, "Most frequent values that are named.", low=0, high=100),
            },
            by_rows=True,
        ),
        "drift": Type(
            "Compare it with another version, the baseline: PSI, KS, MMD.",
            {
                "columns": _COLUMNS,
                "bins": Parameter(
                    10, "Quantiles of the baseline that numbers are counted in.", low=2, high=100
                ),
                "psi_limit": Parameter(0.2, "From which a column has drifted.", low=0, high=100),
                "sample": Parameter(500, "Rows that are compared by MMD.", low=20, high=5_000),
                "model": Parameter(
                    "", "Of kept predictions: the model version, which knows the names of its features."
                ),
                "seed": _SEED,
            },
            inputs=("baseline",),
        ),
        "clean": _CLEAN,
        "split": _SPLIT,
        "normalise": Type(
            "Bring numbers to one scale, as the training part has it.",
            {
                "columns": _COLUMNS,
                "except": Parameter((), "Columns that stay, such as the label."),
                "method": Parameter(
                    "standard",
                    "Mean 0 and spread 1; from 0 to 1; median 0 and quartiles 1 apart.",
                    choices=("standard", "minmax", "robust"),
                ),
            },
        ),
        "encode": Type(
            "Make numbers of texts of few values.",
            {
                "columns": _COLUMNS,
                "method": Parameter(
                    "onehot", "A column for each value, or its number.", choices=("onehot", "ordinal")
                ),
            },
        ),
        "tokenise": Type(
            "Make numbers of a text, in a column `tokens`.",
            {
                "column": Parameter("text", "The text."),
                "method": Parameter("words", "By words or by bytes.", choices=("words", "bytes")),
                "vocabulary": Parameter(20_000, "Words that are known.", low=3, high=1_000_000),
                "length": Parameter(128, "Of each row; what is longer is cut.", low=1, high=65_536),
            },
            by_rows=True,
        ),
        "resize": Type(
            "Unpack images and bring them to one size.",
            {
                "height": Parameter(64, "Pixels.", low=1, high=4_096),
                "width": Parameter(64, "Pixels.", low=1, high=4_096),
                "colours": Parameter("rgb", "With colours or without.", choices=("rgb", "grey")),
            },
            by_rows=True,
        ),
        "augment": _AUGMENT,
        "pii": Type(
            "Find what people can be told by, in texts and by the names of columns.",
            {"columns": _COLUMNS, "kinds": _KINDS},
            by_rows=True,
        ),
        "mask": Type(
            "Take out of texts what people can be told by.",
            {
                "columns": _COLUMNS,
                "kinds": _KINDS,
                "style": Parameter(
                    "label",
                    "[EMAIL], stars, or stars but for the last four.",
                    choices=("label", "stars", "last4"),
                ),
                "drop": Parameter((), "Columns that are left out altogether."),
            },
            by_rows=True,
        ),
        "pseudonymise": Type(
            "Replace values by pseudonyms, the same for the same value, with a secret of the project.",
            {
                "columns": Parameter((), "Columns of which every value is replaced."),
                "texts": Parameter((), "Columns of texts in which what is found is replaced."),
                "kinds": _KINDS,
                "key": Parameter("default", "Name of the secret: another one makes other pseudonyms."),
            },
            keyed=True,
        ),
        "anonymity": Type(
            "Check that rows are alike in what others may know of people (k-anonymity).",
            {
                "columns": Parameter((), "What others may know, such as age and town."),
                "sensitive": Parameter("", "What they must not learn: its diversity in each group is told."),
                "k": Parameter(5, "Rows that must be alike.", low=2, high=1_000_000),
                "action": Parameter(
                    "report",
                    "Only say it, or put rows of small groups aside.",
                    choices=("report", "quarantine"),
                ),
            },
        ),
    }
)
"""Everything that can be done to a version, by name."""
