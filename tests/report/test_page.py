"""The page: sound HTML, nothing from outside run or left out, the same for the same study."""

import html.parser
import itertools
import json
import math
import re

import pytest

from dpfinjax.report import write_html
from tests.report import made

HOSTILE = "<script>alert(1)</script>\"'&\u2028</style><!--"
VOID = {"meta", "link", "input", "img", "br", "use", "path"}

BARE = {"attacks": (), "audits": (), "members": (), "nonmembers": (), "exposure": {}}
STUDIES = {
    "whole": made.whole(),
    "without models": made.study(),
    "one bare model": made.study(
        made.model("m", seeds=1, per_pattern={}, settings={}, command="", **BARE),
        counts={},
        pictures=(),
        versions={},
    ),
    "without attacks": made.study(made.baseline(**BARE), made.model("m", **BARE)),
    "no finite epsilon": made.study(made.baseline(), made.model("m", epsilon=math.inf)),
    "no accuracy": made.study(
        made.baseline(validation=(math.nan,), test=(math.nan,)),
        made.model("m", validation=(math.nan, 0.9), test=(), per_pattern={"harami": math.nan}),
    ),
    "unknown rates": made.study(
        made.baseline(),
        made.model(
            "m",
            epsilon=0.0,
            tuned_epsilon=math.inf,
            attacks=(
                made.attack("LiRA", 0.1)._replace(
                    auc=math.nan, auc_interval=(math.nan, math.nan), curve=()
                ),
            ),
            audits=(made.Audit("one run", math.nan, 0.95),),
            members=(math.nan,),
        ),
    ),
    "huge epsilons": made.study(
        made.baseline(), *(made.model(f"e{e:g}", epsilon=e) for e in (0.01, 31.7, 4e5))
    ),
    "hostile": made.study(
        made.baseline(label=HOSTILE),
        made.model(
            HOSTILE,
            label=HOSTILE,
            sentence=HOSTILE,
            assumptions=(HOSTILE,),
            settings={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
            command=HOSTILE,
            attacks=(made.attack(HOSTILE, 0.0),),
            audits=(made.Audit(HOSTILE, 0.5, 0.95),),
            per_pattern={HOSTILE: 0.5},
            exposure={HOSTILE: 0.5},
        ),
        source=HOSTILE,
        unit=HOSTILE,
        counts={HOSTILE: {HOSTILE: 3}},
        pictures=((HOSTILE, made.png()),),
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
        remarks=(HOSTILE, "a name that is no text: \udcff"),
    ),
}


class Reader(html.parser.HTMLParser):
    """What a page is made of; refuses tags that are closed in the wrong order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)

    def all(self, tag):
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each study's page, as text, and as read."""
    folder = tmp_path_factory.mktemp("pages")
    texts = {}
    for name, study in STUDIES.items():
        write_html(folder / "report.html", study)
        texts[name] = (folder / "report.html").read_text("utf-8")
    assert [file.name for file in folder.iterdir()] == ["report.html"]
    return {name: (text, Reader(text)) for name, text in texts.items()}


every_study = pytest.mark.parametrize("name", STUDIES)


@every_study
def test_ids_are_unique_and_every_reference_has_its_target(name, pages):
    _, page = pages[name]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a[key] for _, a in page.tags for key in ("href", "xlink:href") if key in a]
    named = [
        attributes["aria-labelledby"]
        for _, attributes in page.tags
        if "aria-labelledby" in attributes
    ]
    assert links
    assert named
    assert {link.removeprefix("#") for link in links} | set(named) <= set(ids)


@every_study
def test_headings_tables_and_pictures_are_named(name, pages):
    _, page = pages[name]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(a["aria-label"] for a in page.all("svg") if a.get("role") == "img")
    assert [attributes["lang"] for attributes in page.all("html")] == ["en"]
    assert len(page.all("main")) == 1


@every_study
def test_a_page_asks_nobody_for_anything(name, pages):
    text, page = pages[name]
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@every_study
def test_numbers_that_are_none_are_not_shown(name, pages):
    _, page = pages[name]
    words = re.findall(r"[\w.]+", " ".join(page.text))
    assert not {"nan", "inf", "None", "np.float64"} & set(words)


@every_study
def test_the_charts_are_strict_json(name, pages):
    _, page = pages[name]

    def refuse(constant):
        raise AssertionError(constant)

    charts = json.loads(page.scripts[0], parse_constant=refuse)
    assert "frontier" in charts["charts"]


def test_nothing_from_outside_becomes_an_element(pages):
    text, page = pages["hostile"]
    assert len(page.all("script")) == 3
    assert len(page.all("style")) == 1
    assert "<script>alert" not in text
    assert "<!--" not in text[: text.index("plotly.js v")]
    assert "alert(1)" in "".join(page.text)
    for part in ("<", ">", "&", "\u2028"):
        assert part not in page.scripts[0]


def test_nothing_but_the_pages_own_scripts_may_run(pages):
    _, page = pages["hostile"]
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = policy.split(";")[1]
    assert scripts.count("sha256-") == 2
    assert "unsafe" not in scripts


def test_the_same_study_gives_the_same_page(pages, tmp_path):
    write_html(tmp_path / "again.html", made.whole())
    assert (tmp_path / "again.html").read_text("utf-8") == pages["whole"][0]


def test_everything_that_is_known_is_on_the_page(pages):
    _, page = pages["whole"]
    text = re.sub(r"\s+", " ", " ".join(page.text))
    study = STUDIES["whole"]
    expected = [study.source, study.unit, study.command, *study.remarks, "13,248"]
    for model in study.models:
        expected += [model.label, model.sentence, *model.assumptions, model.command]
    expected += [
        "data.split",
        "learning_rate",
        *study.versions.values(),
        "Share DP\u2060-\u2060SGD",
    ]
    for part in expected:
        assert part in text


def test_the_page_says_what_may_be_shared_and_what_not(tmp_path):
    place = "dpsgd/target_epsilon=4.0,seed=0/release"
    shared = made.model("m", release=place, seeds=2, accuracy=0.93)
    texts = []
    for study in (made.study(made.baseline(), shared), made.study(made.baseline())):
        write_html(tmp_path / "report.html", study)
        page = Reader((tmp_path / "report.html").read_text("utf-8"))
        texts.append(re.sub(r"\s+", " ", " ".join(page.text)))
    assert f"the folder {place} (the first of its seeds), and nothing else" in texts[0]
    assert "the release/ folder of one private model, and nothing else" in texts[1]
    for text in texts:
        assert "data-dependent epsilons, seeds and this page are not covered" in text


def test_settings_that_all_share_are_told_once(pages):
    text = " ".join(pages["whole"][1].text)
    assert text.count("data.split") == 1
    assert text.count("target_epsilon") == len(STUDIES["whole"].models)


def test_a_failed_report_leaves_the_old_one(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(KeyError):
        write_html(tmp_path / "report.html", made.study(made.model("m", family="unknown")))
    assert (tmp_path / "report.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
