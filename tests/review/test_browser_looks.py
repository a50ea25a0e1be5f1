"""What the pages look like, to people who see or don't, on desks and on phones; and text that wants to be more."""

from collections.abc import Iterator

import pytest
from review_browser import DESKTOP, LAPTOP, PHONE, Browser, Served, served
from review_runs import Words, review_run

from tagger.english.predicates import canonical

PAGES = {
    "overview": "/", "labels": "/labels?predicate=hold", "images": "/images", "image": "image", "audit": "/audit",
    "quarantine": "/quarantined", "nowhere": "/nowhere",
}  # fmt: skip
SCREENS = [(DESKTOP, False), (LAPTOP, True), (PHONE, True)]
ATTACK = "<img src=x onerror=\"document.title='stolen'\">"
HOSTILE = [
    ATTACK, "\"'><script>alert(1)</script>", "{{7*7}} ${7*7} <%= 7 %>", "\u202eevil\u202c right to left",
    "a\x00b\u2028c", "&lt;b&gt;&amp;",
    "javascript:alert(1)", "é中文🦄",
]  # fmt: skip
LONG = "long " * 1000


@pytest.fixture(scope="module", autouse=True)
def judged(window: Browser, server: Served) -> None:
    """Gives a verdict of each kind on the page of labels."""
    window.open("/labels?predicate=hold")
    for key, kind in (("a", "accept"), ("r", "reject"), ("u", "unsure")):
        window.judge(key, kind)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    words = Words(
        subject=ATTACK, captions=(f"a man rides {ATTACK} {{{{7*7}}}}", *HOSTILE, LONG),
        predicates=("ride", *HOSTILE, LONG[:5000]), uri="<img src=x onerror=alert(1)> '{}\u202e\"&.png",
        reason=ATTACK, value=LONG,
    )  # fmt: skip
    with served(review_run(tmp_path_factory.mktemp("hostile"), images=3, words=words).run.store.root, "toy") as running:
        yield running


def show(window: Browser, page: str) -> None:
    """Open a page and wait for the images in sight."""
    if page == "image":
        window.open("/labels?predicate=ride")
        window.driver.get(str(window.find(".chip a.crop").get_attribute("href")))
        window.ready()
    else:
        window.open(page)
    if window.count("#scroller"):
        window.until(lambda: window.count(".image-row") > 0)
    window.until(lambda: window.script(
        "return [...document.images].filter((i) => i.getBoundingClientRect().top < innerHeight)"
        ".every((i) => i.complete)"
    ))  # fmt: skip


@pytest.mark.parametrize(("size", "dark"), SCREENS)
def test_pages_fit_their_screen_and_everybody_can_read_them(window, server, size, dark):
    window.visit(server)
    window.screen(size, dark=dark)
    name = f"{size[0]}x{size[1]}{'-dark' if dark else ''}"
    for page, path in PAGES.items():
        show(window, path)
        assert size == LAPTOP or window.violations() == [], f"{page} at {name}"
        wide, room = window.script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room, f"{page} at {name} is {wide} pixels wide"
        assert window.foreign() == []
        assert [error for error in window.errors() if "/nowhere" not in error] == []
    window.screen(DESKTOP)


@pytest.mark.parametrize("dark", [False, True])
def test_dialogs_can_be_read_by_everybody(window, server, dark):
    window.visit(server)
    window.screen(DESKTOP, dark=dark)
    for key, dialog in (("?", "help"), ("p", "predicate")):
        window.open("/labels?predicate=hold")
        window.press(key)
        window.until(lambda dialog=dialog: window.find(f"#{dialog}").is_displayed())
        assert window.violations() == []
    show(window, "image")
    window.press("w")
    window.until(lambda: window.find("#picking").is_displayed())
    assert window.violations() == []
    window.screen(DESKTOP)


def test_verdict_buttons_stay_at_hand_on_a_phone(window, server):
    window.visit(server)
    window.screen(PHONE)
    show(window, "/labels?predicate=watch")
    before = window.script("return document.getElementById('image')?.dataset.chosen ?? ''")
    window.reach_image(window.find(".chip a.crop").click)
    button = "return document.querySelector('[data-action=accept]').getBoundingClientRect().bottom"
    assert window.script(button) <= PHONE[1]
    window.find("[data-action=accept]").click()
    window.until(lambda: server.kinds("watch") == ["accept"])
    assert before == ""
    window.screen(DESKTOP)


def test_the_tab_key_reaches_the_content_first_and_every_link_shows_its_focus(window, server):
    window.visit(server)
    window.press("\ue004")
    assert window.script("return document.activeElement.className") == "skip"
    assert window.script("return document.activeElement.getBoundingClientRect().left") >= 0
    window.press("\ue007")
    assert window.script("return document.activeElement.id") == "main"


def test_hostile_text_is_shown_as_text(window, hostile):
    window.visit(hostile)
    for page in ("/", "/labels", "/images", "/quarantined", "/audit", "/labels?page=2", "/labels?text=%3Cimg+src%3Dx"):
        window.open(page)
        if window.count("#scroller"):
            window.until(lambda: window.count(".image-row") > 0)
        check_harmless(window, page)
    window.open("/labels?predicate=ride")
    assert window.texts(".chip .words .subject")[0] == ATTACK
    window.reach_image(window.find(".chip a.crop").click)
    check_harmless(window, "image")
    assert ATTACK in window.text(".caption-line") and "{{7*7}}" in window.text(".caption-line")
    window.press("p")
    assert ATTACK in window.text("#predicate-words")
    window.press(ATTACK, "\ue007")
    window.until(lambda: len(hostile.log()) == 1)
    assert hostile.log()[0]["corrected_predicate"] == canonical(ATTACK)


def check_harmless(window: Browser, page: str) -> None:
    assert "stolen" not in window.driver.title
    assert window.count("img[src=x]") == 0 and window.count("script:not([src^='static/'])") == 0
    body = window.script("return document.body.textContent")
    assert not {"\u202e", "\x00", "\u2028"} & set(body), page
    assert "49 " not in body.replace("{{7*7}}", ""), page
    wide, room = window.script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room, f"{page} is {wide} pixels wide"
    assert window.foreign() == []
