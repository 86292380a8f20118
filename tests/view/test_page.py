"""The page in a real browser: rows, photographs, filters, orders, keys, tags and detail."""

import base64
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import fastcam
import fastcam.evaluate.datasets
from fastcam.view.conditions import Condition
from tests.view.served import TOKEN, maps_of, photographs, served

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    source = photographs(root / "photos")
    maps = maps_of(source, root / "maps")
    fastcam.evaluate.datasets.run_on_maps(maps, root / "scores", ["sparseness"])
    with served([maps], source, [root / "scores"]) as found:
        yield found


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"):
        options.add_argument(each)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, server):
    driver.get(f"{server.address}/?token={TOKEN}")
    WebDriverWait(driver, 20).until(lambda d: d.execute_script("return document.body.dataset.ready") == "yes")
    yield driver
    problems = [
        entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "404" not in entry["message"]
    ]
    assert problems == []


def shown(page) -> list[str]:
    return [each.text.replace("\n", " ") for each in page.find_elements(By.CSS_SELECTOR, "#grid figcaption")]


def wait(page, condition) -> None:
    """Wait until something holds of a page that is drawn again and again meanwhile."""
    drawn_again = (StaleElementReferenceException, IndexError)
    WebDriverWait(page, 10, 0.05, drawn_again).until(lambda d: condition())


def count(page) -> str:
    return page.find_element(By.ID, "count").text


def test_the_first_screen(page, server):
    assert count(page) == "49 of 49 maps"
    assert "token" not in page.current_url
    assert shown(page)[0].startswith("blue 0.")
    wait(page, lambda: len(shown(page)) > 10)


def test_a_filter_and_the_histogram(page):
    page.find_element(By.ID, "add-filter").click()
    Select(page.find_element(By.CSS_SELECTOR, "fieldset select")).select_by_value("label")
    value = page.find_element(By.CSS_SELECTOR, "fieldset input")
    value.send_keys("lime", Keys.TAB)
    wait(page, lambda: count(page).startswith("16 of"))
    assert all("lime/" in each for each in shown(page))
    value.clear()
    value.send_keys("none", Keys.TAB)
    wait(page, lambda: page.find_element(By.ID, "nothing").is_displayed())
    page.find_element(By.CSS_SELECTOR, "fieldset button").click()
    wait(page, lambda: count(page).startswith("49 of"))
    histogram = page.find_element(By.ID, "histogram")
    webdriver.ActionChains(page).move_to_element_with_offset(histogram, 40, 0).click_and_hold().move_by_offset(
        70, 0
    ).release().perform()
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "fieldset")) == 2)
    wait(page, lambda: 0 < int(count(page).split()[0]) < 48)


def test_a_range_is_typed(page, server):
    def of(*limits):
        return f"{server.table.count([Condition('score', *limit) for limit in limits])} of"

    low, high = page.find_elements(By.CSS_SELECTOR, "#histogram-ends input")
    smallest = min(row["score"] for row in server.table.page([Condition("score", "is there")], "score", False, 0, 1))
    assert float(low.get_attribute("placeholder")) == pytest.approx(smallest, rel=1e-3)
    low.send_keys("0.2", Keys.TAB)
    wait(page, lambda: count(page).startswith(of(("at least", 0.2))))
    high.send_keys("0.3", Keys.TAB)
    wait(page, lambda: count(page).startswith(of(("at least", 0.2), ("at most", 0.3))))
    low.clear()
    low.send_keys(Keys.TAB)
    wait(page, lambda: count(page).startswith(of(("at most", 0.3))))


def test_orders(page, server):
    Select(page.find_element(By.ID, "sort")).select_by_value("score")
    page.find_element(By.ID, "descending").click()
    first = server.table.page([], "score", True, 0, 1)[0]["image_id"]
    wait(page, lambda: first in shown(page)[0])
    scores = [float(each.split()[1]) for each in shown(page)[:10]]
    assert scores == sorted(scores, reverse=True)


def test_the_order_of_a_measure(page, server):
    Select(page.find_element(By.ID, "sort")).select_by_value("sparseness")
    page.find_element(By.ID, "descending").click()
    wanted = [row["sparseness"] for row in server.table.page([], "sparseness", True, 0, 5)]
    wait(page, lambda: [float(each.split()[1]) for each in shown(page)[:5]] == pytest.approx(wanted, rel=1e-2))
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.ENTER)
    wait(page, lambda: "sparseness" in page.find_element(By.ID, "detail-row").text)


def test_captions_say_what_made_a_map(page):
    wait(page, lambda: len(shown(page)) > 3)
    for figure in page.find_elements(By.CSS_SELECTOR, "#grid figure")[:4]:
        caption = figure.find_element(By.TAG_NAME, "figcaption")
        assert "_cam" in caption.text
        height = "return [arguments[0].scrollHeight, arguments[0].clientHeight]"
        assert int.__le__(*page.execute_script(height, caption))  # nothing of it is cut off


def test_a_reload_keeps_what_is_chosen(page, server):
    Select(page.find_element(By.ID, "sort")).select_by_value("sparseness")
    assert page.find_element(By.ID, "histogram-column").get_attribute("value") == "sparseness"
    low = page.find_elements(By.CSS_SELECTOR, "#histogram-ends input")[0]
    low.send_keys("0.01", Keys.TAB)
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "fieldset")) == 1)
    wait(page, lambda: "sparseness" in page.current_url)
    before = count(page)
    page.refresh()
    wait(page, lambda: page.execute_script("return document.body.dataset.ready") == "yes")
    assert count(page) == before
    assert page.find_element(By.ID, "sort").get_attribute("value") == "sparseness"
    page.get(f"{server.address}/#row=999999")
    page.refresh()
    wait(page, lambda: "there is no row 999999" in page.find_element(By.ID, "message").text)


def test_keys_and_tags(page, server):
    body = page.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_RIGHT)
    body.send_keys(Keys.ARROW_RIGHT)
    body.send_keys("3")
    wait(page, lambda: server.table.tagged() != [])
    assert [row["tag"] for row in server.table.page([], "place", False, 0, 4)] == [None, None, 3, None]
    wait(page, lambda: page.find_element(By.CSS_SELECTOR, ".tag").text == "3")
    body.send_keys("0")
    wait(page, lambda: server.table.tagged() == [])


def test_the_detail(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.ENTER)
    wait(page, lambda: page.find_element(By.ID, "detail").is_displayed())
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "#detail-pictures canvas")) == 3)
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "#detail-others figure")) == 3)
    picture = "return document.querySelectorAll('#detail-pictures canvas')[2].toDataURL()"
    before = page.execute_script(picture)
    page.execute_script(
        "const s = document.querySelector('#detail [data-look]'); s.value = 90; s.dispatchEvent(new Event('input'))"
    )
    assert page.execute_script(picture) != before
    assert page.find_element(By.ID, "opacity").get_attribute("value") == "90"
    wait(page, lambda: "#row=0" in page.current_url)
    assert "blue/02.png" in page.find_element(By.ID, "detail-row").text
    page.find_element(By.CSS_SELECTOR, "#detail .close").click()
    wait(page, lambda: not page.find_element(By.ID, "detail").is_displayed())


def test_colours_are_those_of_the_map(page, server):
    """The brightest place of the drawn map is that of the stored one, in the last colour of the colour map."""
    page.execute_script(
        "const s = document.querySelector('#opacity'); s.value = 100; s.dispatchEvent(new Event('input'))"
    )
    time.sleep(0.5)
    data = page.execute_script(
        "const c = document.querySelector('#grid figure canvas'); return c.toDataURL('image/png').split(',')[1]"
    )
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    maps = server.table.stores[0].maps("blue/02.png")[0]
    expected = fastcam.render.colors("jet")[np.round(maps * 255).astype(int)]
    resized = np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(maps.shape, Image.Resampling.NEAREST)).astype(
        int
    )
    assert np.abs(resized - expected).mean() < 12


def test_a_link_to_a_row(driver, server):
    driver.get(f"{server.address}/#row=7")
    driver.refresh()
    WebDriverWait(driver, 20).until(lambda d: d.find_element(By.ID, "detail").is_displayed())
    assert server.table.of_places([7])[0]["image_id"] in driver.find_element(By.ID, "detail-row").text


def test_mean_maps(page, server):
    page.find_element(By.ID, "means-button").click()
    wait(page, lambda: page.find_element(By.ID, "means").is_displayed())
    captions = {each.text for each in page.find_elements(By.CSS_SELECTOR, "#means figcaption")}
    assert captions == {
        f"{name}, {method}, 1" for name in ("red", "lime", "blue") for method in ("grad_cam", "layer_cam")
    }
    page.find_element(By.CSS_SELECTOR, "#means .close").click()
    Select(page.find_element(By.ID, "sort")).select_by_value("entropy")
    first = server.table.page([], "entropy", False, 0, 1)[0]["image_id"]
    wait(page, lambda: first in shown(page)[0])
