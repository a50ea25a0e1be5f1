"""The list of images at any length, and searches for images and labels, whose addresses hold them."""

import re
from collections.abc import Iterator

import pytest
from review_browser import PHONE, Browser, Served, served
from review_runs import add_partition, many_images, review_run
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, window: Browser) -> Iterator[Served]:
    """A run of 1,200 images with one label each and 24 with twelve."""
    book = many_images(tmp_path_factory.mktemp("search"))
    add_partition(book, "toys/0001", range(5001, 5025))
    with served(book.run.store.root, "many") as running:
        window.visit(running)
        yield running


def visible(window: Browser) -> list[str]:
    """The names of the images whose rows lie wholly within the list."""
    found: list[str] = window.script(
        "const list = document.getElementById('scroller').getBoundingClientRect();"
        "return [...document.querySelectorAll('.image-row')].filter((row) => {"
        "  const {top, bottom} = row.getBoundingClientRect(); return top >= list.top - 1 && bottom <= list.bottom + 1; "
        "}).map((row) => row.querySelector('b').textContent)"
    )
    return found


def scroll_to(window: Browser, share: float) -> None:
    window.script(
        "const s = document.getElementById('scroller'); s.scrollTop = arguments[0] * (s.scrollHeight - s.clientHeight)",
        share,
    )


def search(window: Browser, page: str, **fields: str) -> str:
    """Fill in the search form, which goes to its results and stays open when a field changes. Returns the heading."""
    window.open(page)
    window.script("document.querySelector('.filters').open = true")
    for name, value in fields.items():
        field = window.find(f"#search [name={name}]")
        if field.tag_name == "select":
            Select(field).select_by_visible_text(value)
        else:
            field.send_keys(value, Keys.TAB)
        window.until(lambda name=name: re.search(rf"[?&]{name}=[^&]", window.query()))
        window.ready()
        assert window.count(".filters[open]") == 1
    return window.text("h1")


def test_a_long_list_scrolls_to_its_end_and_holds_few_rows(window, server):
    window.open("/images")
    assert window.text("h1") == "1,224 images"
    window.until(lambda: "toys 1" in visible(window))
    scroll_to(window, 0.5)
    window.until(lambda: "toys 613" in visible(window))
    scroll_to(window, 1)
    window.until(lambda: visible(window)[-1:] == ["toys 5024"])
    assert window.count(".image-row") <= 60
    window.screen(PHONE)
    window.open("/images")
    scroll_to(window, 1)
    window.until(lambda: visible(window)[-1:] == ["toys 5024"])
    window.screen((1440, 900))


def test_the_list_is_walked_by_keys_without_losing_the_focus(window, server):
    window.open("/images")
    window.until(lambda: "toys 1" in visible(window))
    window.script("document.getElementById('scroller').focus()")
    window.press(Keys.ARROW_DOWN)
    focused = "return document.activeElement.dataset?.place"
    window.until(lambda: window.script(focused) == "0")
    for place in range(1, 90):
        window.press(Keys.ARROW_DOWN)
        window.until(lambda place=place: window.script(focused) == str(place), f"row {place} never had the focus")
    window.reach_image(lambda: window.press(Keys.ENTER))
    assert window.text("h1").startswith("toys 90")
    window.press(Keys.ESCAPE)
    window.until(lambda: window.query() == "/images")


@pytest.mark.parametrize(
    ("page", "fields", "heading"),
    [
        ("/images", {"text": "number 117"}, "11 images"),  # 117 and 1170 to 1179
        ("/images", {"text": "100%"}, "0 images"),
        ("/labels", {"image_id": "5003"}, "12 labels"),
        ("/labels", {"subject": "person", "object": "horse"}, "1,224 labels"),
        ("/labels", {"predicate": "hold", "least": "0.8", "most": "0.9"}, "3 labels"),
        ("/labels", {"correct": "has the relation"}, "612 labels"),
        ("/labels", {"reviewed": "by anyone"}, "0 labels"),
    ],
)  # fmt: skip
def test_a_search_finds_what_it_says_and_its_address_holds_it(window, server, page, fields, heading):
    assert search(window, page, **fields) == heading
    address = window.query()
    assert set(fields) == {
        part.partition("=")[0] for part in address.split("?")[1].split("&") if part.partition("=")[2]
    } - {"order"}
    window.driver.refresh()
    window.ready()
    assert window.text("h1") == heading
    assert f"({len(fields)} set)" in window.texts(".filters summary")[0]


def test_labels_are_found_by_reason_and_verdict(window, server):
    kept, total = (int(search(window, "/labels?predicate=feed", kept=kept).split()[0]) for kept in ("kept", "not kept"))
    assert int(search(window, "/labels?predicate=feed", reason="below the threshold").split()[0]) == total
    assert kept + total == 24
    window.open("/labels?predicate=feed")
    judged = [window.judge("r", "reject"), window.judge("r", "reject"), window.judge("a", "accept")]
    assert search(window, "/labels?predicate=feed", reviewed="by me") == "3 labels"
    assert search(window, "/labels?predicate=feed", verdict="rejected") == "2 labels"
    assert window.script("return [...document.querySelectorAll('.chip')].map((c) => c.dataset.label)") == judged[:2]
    assert search(window, "/labels?predicate=feed", reviewed="not by me") == "21 labels"
    assert search(window, "/images?predicate=feed", verdict="rejected") == "2 images"
    window.until(lambda: window.count(".image-row .tick") == 2)


def test_an_image_opened_from_the_list_keeps_the_search(window, server):
    search(window, "/images", predicate="wash", least="0.8")
    window.until(lambda: window.count(".image-row") > 0)
    window.reach_image(window.find(".image-row").click)
    window.find("#labels li:nth-child(2) a").click()
    window.until(lambda: "label=" in window.query())
    window.ready()
    window.press(Keys.ESCAPE)
    window.until(lambda: window.query() == "/images?predicate=wash&least=0.8")


def test_slash_goes_to_the_search_and_keys_typed_there_judge_nothing(window, server):
    window.open("/labels?predicate=push")
    window.press("/", "a", "r", "A")
    assert window.find("#search-text").get_attribute("value") == "arA"
    assert server.kinds("push") == []


def test_a_server_that_is_gone_is_reported_and_not_asked_again_and_again(window, server, tmp_path_factory):
    book = review_run(tmp_path_factory.mktemp("gone"))
    with served(book.run.store.root, "toy") as other:
        window.visit(other, "/labels?predicate=ride")
        other.kill()
        window.press("a")
        window.has("#message", "can't be reached")
        window.press("n")
        window.until(lambda: window.text(".pager span") == "screen 1 of 2")
        assert window.count(".chip:not([data-kind=''])") == 0
        # Keys work on: a second try says the same.
        window.script("document.getElementById('message').textContent = ''")
        window.press("a")
        window.has("#message", "can't be reached")
        assert [error for error in window.errors() if "ERR_CONNECTION_REFUSED" not in error] == []
    window.visit(server)
