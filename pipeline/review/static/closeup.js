// The current label in its whole image, beside the grid: it zooms and pans by wheel, drag, pinch and keys.
const STEP = 1.25;
const PANS = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };

export function watchCloseup(svg) {
  // What the picture shows, as the x, y, width and height of a viewBox, and what it showed at first.
  let view = [0, 0, 1, 1];
  let first = view;
  const pointers = new Map();

  function look(next) {
    view = next;
    svg.setAttribute("viewBox", view.join(" "));
  }

  // Units of the image for one pixel of the screen.
  function unit() {
    const { width, height } = svg.getBoundingClientRect();
    return Math.max(view[2] / width, view[3] / height);
  }

  // Zooms around a point of the screen, or around the middle.
  function zoom(factor, x, y) {
    const frame = svg.getBoundingClientRect();
    const right = ((x ?? frame.x + frame.width / 2) - frame.x - frame.width / 2) * unit();
    const down = ((y ?? frame.y + frame.height / 2) - frame.y - frame.height / 2) * unit();
    const [width, height] = [view[2] / factor, view[3] / factor];
    if (width < 8 || width > 20 * first[2]) return;
    const share = 1 - 1 / factor;
    look([view[0] + view[2] / 2 + right * share - width / 2, view[1] + view[3] / 2 + down * share - height / 2, width, height]);
  }

  const move = (right, down) => look([view[0] + right, view[1] + down, view[2], view[3]]);

  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? STEP : 1 / STEP, event.clientX, event.clientY);
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
  });
  svg.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    if (other) zoom(apart(event) / Math.max(apart(before), 1), other.clientX, other.clientY);
    else move((before.clientX - event.clientX) * unit(), (before.clientY - event.clientY) * unit());
    pointers.set(event.pointerId, event);
  });
  for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, (event) => pointers.delete(event.pointerId));

  return {
    show(chip) {
      const drawn = chip.querySelector("svg");
      svg.replaceChildren(...[...drawn.children].map((shape) => shape.cloneNode()));
      document.getElementById("closeup-words").textContent = chip.dataset.words;
      first = drawn.getAttribute("viewBox").split(" ").map(Number);
      look(first);
    },
    // Whether the key belongs to the picture.
    takes(key, shift) {
      if (key === "+" || key === "=") zoom(STEP);
      else if (key === "-") zoom(1 / STEP);
      else if (key === "0") look(first);
      else if (shift && key in PANS) move(PANS[key][0] * view[2], PANS[key][1] * view[3]);
      else return false;
      return true;
    },
  };
}
