"""The grid of labels, judged by keys as reviewers do. Each test judges the labels of another predicate."""

import pytest
from review_browser import Browser
from selenium.webdriver.common.keys import Keys

from pipeline.review.decisions import AT_ONCE


def current(window: Browser) -> int:
    """The place of the current label on the screen."""
    return window.script("return [...document.querySelectorAll('.chip')].findIndex((c) => c.matches('.current'))")


def test_arrows_move_over_the_rows_of_the_grid(window, server):
    window.open("/labels?predicate=hold")
    assert current(window) == 0
    places = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_LEFT):
        window.press(key)
        places.append(current(window))
    assert places == [1, 6, 5, 0, 0]
    assert window.script("return document.activeElement.matches('.chip.current')")


def test_each_verdict_is_on_disk_before_the_page_shows_it(window, server):
    window.open("/labels?predicate=hold")
    for key, kind, made in (("a", "accept", 1), ("r", "reject", 2), ("u", "unsure", 3)):
        window.judge(key, kind)
        assert server.kinds("hold")[-1] == kind
        assert current(window) == made
        assert window.text("#reviewed") == str(made)
    row = server.log()[-1]
    assert row["run"] == "toy" and row["queue"] == "grid" and row["seconds"] > 0 and row["score"] == 0.902
    assert row["relation"]["subject"] == [20, 30, 70, 180]
    window.open("/labels?predicate=hold")
    states = window.script("return [...document.querySelectorAll('.chip')].slice(0, 4).map((c) => c.dataset.kind)")
    assert states == ["accept", "reject", "unsure", ""]
    assert window.text("#reviewed") == "3" and current(window) == 3
    said = "return getComputedStyle(document.querySelector('.chip[data-kind=accept] .own'), '::before').content"
    assert "✓ accepted" in window.script(said)


def test_undo_takes_back_the_last_verdicts_one_by_one(window, server):
    window.open("/labels?predicate=wear")
    first, second = window.judge("a", "accept"), window.judge("r", "reject")
    for label in (second, first):
        window.press("z")
        window.until(lambda label=label: window.state(label) == "")
        assert current(window) == [first, second].index(label)
    assert server.kinds("wear") == ["accept", "reject", "undo", "undo"]
    assert window.text("#reviewed") == "0"
    window.open("/labels?predicate=wear")
    assert window.count(".chip:not([data-kind=''])") == 0
    # It leaves a verdict of an earlier visit that was only repeated.
    window.judge("a", "accept")
    before = server.kinds("wear")
    window.open("/labels?predicate=wear")
    window.press(Keys.ARROW_LEFT, "a", "z")
    window.judge("r", "reject")
    assert server.kinds("wear") == [*before, "reject"]


def test_the_rest_of_a_screen_is_accepted_at_once(window, server):
    window.open("/labels?predicate=carry")
    assert window.text(".pager span") == "screen 1 of 2"
    rejected = window.judge("r", "reject")
    # Caps Lock gives an A without Shift: one label is judged and not the screen.
    accepted = str(window.find(".chip.current").get_attribute("data-label"))
    window.script("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'A', bubbles: true}))")
    window.until(lambda: window.state(accepted) == "accept")
    assert len(server.kinds("carry")) == 2
    window.press_shift("A")
    window.until(lambda: window.count(".chip[data-kind=accept]") == 19)
    assert window.state(rejected) == "reject"
    assert server.kinds("carry") == ["reject", *["accept"] * 19]
    window.until(lambda: window.find("#done").is_displayed())
    window.press("n")
    window.until(lambda: window.text(".pager span") == "screen 2 of 2")
    assert window.query() == "/labels?predicate=carry&page=2" and window.count(".chip") == 4
    window.press("a")
    window.until(lambda: len(server.kinds("carry")) == 21)
    window.press("b")
    window.until(lambda: window.text(".pager span") == "screen 1 of 2")
    assert window.text("#reviewed") == "21"


def test_the_right_predicate_is_typed(window, server):
    window.open("/labels?predicate=kiss")
    label = window.find(".chip.current").get_attribute("data-label")
    window.press("p")
    assert window.text("#predicate-words") == "person kiss dog"
    window.press("bite", Keys.ESCAPE)
    window.until(lambda: not window.find("#predicate").is_displayed())
    assert server.kinds("kiss") == []
    window.press("p")
    window.press("bite", Keys.ENTER)
    window.until(lambda: window.state(str(label)) == "wrong_predicate")
    row = server.log()[-1]
    assert (row["kind"], row["corrected_predicate"]) == ("wrong_predicate", "bite")
    assert window.text(f"[data-label='{label}'] .correction") == "→ bite"
    assert current(window) == 1
    window.press("p")
    window.press("kisses", Keys.ENTER)
    window.has("#message", "the correction is the label itself")
    assert len(server.kinds("kiss")) == 1
    assert all("422" in error for error in window.errors())


def test_a_wrong_pair_is_corrected_by_keys_alone(window, server):
    window.open("/labels?predicate=watch")
    window.press("w")
    window.until(lambda: window.count(".image-view.picking") == 1)
    assert "#" not in window.driver.current_url
    window.press("s")
    assert window.count("#picking [data-action=subject].current") == 1
    window.until(lambda: window.press(Keys.TAB) or window.script("return document.activeElement.dataset?.box") == "1")
    window.press(Keys.SPACE, Keys.ENTER)
    window.until(lambda: server.kinds("watch") == ["wrong_pair"])
    row = server.log()[-1]
    assert row["corrected_subject"] == [230, 40, 70, 170] and "corrected_object" not in row


def test_a_refused_verdict_marks_its_label_and_leaves_the_others_alone(window, server):
    window.open("/labels?predicate=push")
    labels = window.script("return [...document.querySelectorAll('.chip')].map((c) => c.dataset.label)")
    cookie = window.driver.get_cookie("rlip_review")
    window.clear_cookies()
    window.press("a")
    window.has("#message", "Not recorded")
    assert window.count(f".chip[data-refused][data-label='{labels[0]}']") == 1 and window.state(labels[0]) == ""
    assert [error for error in window.errors() if "401" not in error] == []
    window.driver.add_cookie(cookie)
    # The reviewer is at the second label by now, and stays there.
    assert window.judge("r", "reject") == labels[1]
    assert "Not recorded" in window.text("#message")
    window.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert window.judge("a", "accept") == labels[0]
    assert window.text("#message") == "" and server.kinds("push") == ["reject", "accept"]


def test_verdicts_wait_in_order_while_the_server_fails(window, server):
    window.open("/labels?predicate=pull")
    labels = window.script("return [...document.querySelectorAll('.chip')].map((c) => c.dataset.label)")
    # Every other send fails, one half of them after the server has recorded it.
    window.script("""
        const real = window.fetch; let sent = 0;
        window.fetch = async (...request) => {
          sent += 1;
          if (sent % 4 === 1) throw new TypeError("no network");
          const answer = await real(...request);
          if (sent % 4 === 3) throw new TypeError("the answer was lost");
          return answer;
        };
    """)
    window.press(*"aruaru")
    window.until(lambda: window.count(".chip:not([data-kind=''])") == 6)
    wanted = ["accept", "reject", "unsure"] * 2
    assert [window.state(label) for label in labels[:6]] == wanted
    assert server.kinds("pull") == wanted and window.text("#message") == ""


def test_a_label_waits_for_the_last_of_its_verdicts(window, server):
    window.open("/labels?predicate=pull&order=lowest")
    label = str(window.find(".chip.current").get_attribute("data-label"))
    window.script("""
        const real = window.fetch; let sent = 0;
        window.fetch = async (...request) => {
          if (sent++) await new Promise((done) => { window.answer = done; });
          return real(...request);
        };
    """)
    window.press("a", Keys.ARROW_LEFT, "r", Keys.ARROW_LEFT, "a")
    for kind in ("accept", "reject"):
        window.until(lambda: window.script("return window.answer !== undefined"))
        assert window.state(label) == kind and window.count(f".chip[data-sending][data-label='{label}']") == 1
        window.script("const done = answer; answer = undefined; done()")
    window.until(lambda: window.state(label) == "accept" and window.count(".chip[data-sending]") == 0)


def test_what_a_proxy_answers_instead_of_the_server_records_and_shows_nothing(window, server):
    window.open("/labels?predicate=ride&order=lowest")
    window.script("window.fetch = async () => new Response('<h1>Sign in</h1>', { status: 403 })")
    window.press("a")
    window.has("#message", "Not recorded: The server answered 403")
    window.open("/labels?predicate=ride&order=lowest")
    window.script("window.fetch = async () => new Response('<h1>Sign in</h1>', { status: 403 })")
    window.press_shift("C")
    window.has("#message", "The server answered 403")
    assert window.text("h1") == "24 labels"
    window.script("window.fetch = async () => new Response('<h1>Sign in</h1>')")
    window.press("n")
    window.has("#message", "another page")
    assert window.text("h1") == "24 labels"


def test_more_verdicts_than_a_request_takes_are_sent_with_several(window, server):
    window.open("/labels?predicate=ride")
    sent = window.driver.execute_async_script("""
        const [number, done] = arguments, sent = [];
        window.fetch = async (_, { body }) => {
          sent.push(JSON.parse(body).decisions.length);
          return Response.json({ states: [], median_seconds: null });
        };
        import(new URL("static/verdicts.js", document.baseURI).href)
          .then(({ decide }) => decide(Array(number).fill({ label: 1, kind: "reject" }))).then(() => done(sent));
    """, 2 * AT_ONCE + 1)  # fmt: skip
    assert sent == [AT_ONCE, AT_ONCE, 1]


SLOWED = """
    const real = window.fetch; window.posts = [];
    window.fetch = async (...request) => {
      if (request[1]) { posts.push(request[1].body); await new Promise((done) => { setTimeout(done, 300); }); }
      return real(...request);
    };
"""
"""Has the server take its time for verdicts."""


def test_the_class_is_that_of_the_label_on_which_the_key_was_pressed(window, server):
    window.open("/labels?predicate=feed")
    labels = window.script("return [...document.querySelectorAll('.chip')].map((c) => c.dataset.label)")
    window.script(SLOWED)
    window.press("u")
    window.press_shift("C")
    window.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    window.has("#message", "only labels with a probability of at least")
    taken = window.script("return JSON.parse(posts.at(-1))")
    assert str(taken["label"]) == labels[1]
    assert all("422" in error for error in window.errors())


@pytest.mark.parametrize("key", ["w", Keys.ENTER])
def test_verdicts_that_were_typed_ahead_arrive_before_another_page_opens(window, server, key):
    window.open("/labels?predicate=feed&order=image")
    before = server.kinds("feed")
    window.script(SLOWED)
    window.reach_image(lambda: window.press("a", "r", "u", key))
    assert server.kinds("feed") == [*before, "accept", "reject", "unsure"]


def test_undo_takes_back_a_whole_screen_from_the_next_one(window, server):
    window.open("/labels?predicate=touch")
    window.script(SLOWED)
    contents = window.script("return [...document.querySelectorAll('.chip')].map((c) => c.dataset.content)")
    window.press_shift("A")
    window.until(lambda: window.count(".chip[data-kind=accept]") == 20)
    window.press("n")
    window.until(lambda: window.text(".pager span") == "screen 2 of 2")
    window.ready()
    window.press("z")
    window.until(lambda: window.text(".pager span") == "screen 1 of 2")
    assert window.count(".chip:not([data-kind=''])") == 0
    assert server.kinds("touch") == ["accept"] * 20 + ["undo"] * 20
    # By content, since a number may be that of another label by then.
    undone = window.script("return JSON.parse(posts.at(-1)).decisions")
    assert [one["content"] for one in undone] == contents


def test_labels_are_judged_with_the_mouse_alone(window, server):
    window.open("/labels?predicate=wash")
    chip = window.script("return document.querySelectorAll('.chip')[2].dataset.label")
    window.hover(f".chip[data-label='{chip}']")
    window.find(f".chip[data-label='{chip}'] [data-judge=reject]").click()
    window.until(lambda: window.state(chip) == "reject")
    assert window.find(f".chip[data-label='{chip}']").get_attribute("aria-label").endswith(", reject")
    assert server.kinds("wash") == ["reject"]


def test_letters_can_be_switched_off_as_keys(window, server):
    window.open("/labels?predicate=ride")
    window.press("?")
    window.find("#letter-keys").click()
    window.press(Keys.ESCAPE)
    window.press("a", Keys.ARROW_RIGHT)
    assert current(window) == 1 and server.kinds("ride") == []
    window.find("#help-button").click()
    window.find("#letter-keys").click()
    window.press(Keys.ESCAPE)
    window.judge("a", "accept")


def test_keys_are_remapped_and_two_of_them_change_places(window, server):
    window.open("/labels?predicate=hug")
    window.press("?")
    window.find("#help [data-key=a]").click()
    window.press("r")
    assert [window.find(f"#help [data-key={key}]").get_attribute("value") for key in "ar"] == ["r", "a"]
    window.find("#help [data-key=A]").click()
    window.press_shift("K")
    window.press(Keys.ESCAPE)
    window.driver.refresh()
    window.ready()
    window.judge("r", "accept")
    window.judge("a", "reject")
    assert window.text("[data-action=accept-rest] kbd") == "⇧K"
    window.press_shift("A")
    window.press_shift("K")
    window.until(lambda: window.count(".chip[data-kind=accept]") == 19)
    window.script("localStorage.removeItem('keys')")
    assert server.kinds("hug") == ["accept", "reject", *["accept"] * 18]


def test_a_note_is_recorded_with_the_verdict_that_follows(window, server):
    window.open("/labels?predicate=hug&reviewed=no")
    label = window.find(".chip.current").get_attribute("data-label")
    window.press("c")
    assert window.text("#predicate-title") == "Note"
    window.press(*"too dark", Keys.ENTER)
    window.has("#message", "recorded with your next verdict")
    window.press("u")
    window.until(lambda: window.state(label) == "unsure")
    assert server.log()[-1]["note"] == "too dark"
    assert window.text(f"[data-label='{label}'] .correction") == "“too dark”"


def test_the_current_label_is_seen_large_and_zooms_by_keys_and_wheel(window, server):
    window.open("/labels?predicate=pull")
    before = server.kinds("pull")
    seen = "return document.querySelector('#closeup').getAttribute('viewBox').split(' ').map(Number)"
    window.until(lambda: window.text("#closeup-words") == window.find(".chip.current").get_attribute("data-words"))
    first = window.script(seen)
    assert window.count("#closeup image") == 1 and window.count("#closeup .subject") == 1
    window.press("+")
    near = window.script(seen)
    assert near[2] < first[2] and near[0] > first[0]
    window.script(
        "const s = document.querySelector('#closeup'); const f = s.getBoundingClientRect();"
        "s.dispatchEvent(new WheelEvent('wheel', {deltaY: 100, clientX: f.x + f.width / 2, "
        "clientY: f.y + f.height / 2}))"
    )
    assert window.script(seen) == pytest.approx(first, abs=1)
    window.press("-", "0")
    assert window.script(seen) == first
    window.press(Keys.ARROW_DOWN)
    drawn = "return document.querySelector('#closeup image').getAttribute('href')"
    picture = window.find(".chip.current image").get_attribute("href")
    window.until(lambda: window.script(drawn) == picture)
    assert server.kinds("pull") == before
