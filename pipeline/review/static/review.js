// What the page does in the browser: keys, verdicts, links between words and boxes, and the scrolling list.
import { watchGrid } from "./grid.js";
import { watchImage } from "./image.js";
import { watchHelp } from "./dialogs.js";
import { watchScroller } from "./scroller.js";

function begin() {
  const grid = document.querySelector("[data-view=grid]");
  if (grid && !grid.dataset.begun) watchGrid(grid);
  const image = document.querySelector("[data-view=image]");
  if (image && !image.dataset.begun) watchImage(image);
  const scroller = document.getElementById("scroller");
  if (scroller && !scroller.dataset.begun) watchScroller(scroller);
}

watchHelp();
begin();
document.addEventListener("htmx:afterSettle", begin);
document.addEventListener("htmx:responseError", (event) => {
  document.getElementById("message").textContent = `The server answered ${event.detail.xhr.status}; load the page again.`;
});
