/* What the moving pieces share: finding their place on the page, controls, marks and numbers. */
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";

  function fill(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  /* An HTML element, or one of SVG, with attributes and children. */
  const html = (name, attributes, ...children) =>
    fill(document.createElement(name), attributes, children);
  const svg = (name, attributes, ...children) =>
    fill(document.createElementNS(SVG, name), attributes, children);

  let labels = 0;

  /* A labelled slider; its value is shown beside it. */
  function slider(label, { min, max, step, value, show = String }, changed) {
    const id = `move-control-${++labels}`;
    const shown = html("output", { for: id }, show(value));
    const input = html("input", {
      id, type: "range", min, max, step, value, "aria-valuetext": show(value),
      oninput: () => {
        shown.textContent = show(Number(input.value));
        input.setAttribute("aria-valuetext", shown.textContent);
        changed();
      },
    });
    const row = html("div", { class: "move-slider" }, html("label", { for: id }, label), input, shown);
    return {
      row,
      get value() { return Number(input.value); },
      set value(number) { input.value = number; input.dispatchEvent(new Event("input")); },
    };
  }

  /* A small box for a whole number; what cannot be read counts as the nearest that can. */
  function whole(label, { min = 0, max, value }, changed) {
    const input = html("input", {
      type: "number", min, max, step: 1, value, inputmode: "numeric", "aria-label": label,
      oninput: changed,
      onchange: () => { input.value = clamped(); changed(); },
    });
    const clamped = () => Math.max(min, Math.min(max, Math.round(Number(input.value) || 0)));
    return {
      input,
      get value() { return clamped(); },
      set value(number) { input.value = number; },
    };
  }

  function choice(label, options, value, changed) {
    const id = `move-control-${++labels}`;
    const select = html("select", { id, onchange: changed },
      Object.entries(options).map(([key, text]) =>
        html("option", { value: key, selected: key === value }, text)));
    return {
      row: html("div", { class: "move-slider" }, html("label", { for: id }, label), select),
      get value() { return select.value; },
    };
  }

  const button = (text, pressed) => html("button", { type: "button", onclick: pressed }, text);

  /* Put the piece called `name` where the page asks for it. build(place) fills the empty place. */
  function piece(name, build) {
    function start() {
      for (const place of document.querySelectorAll(`[data-move="${name}"]`)) {
        place.replaceChildren();
        place.classList.add("move-ready");
        build(place);
      }
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }

  /* A number with at most `digits` decimals, a true minus sign and no trailing zeros. */
  function text(number, digits = 3) {
    const rounded = Number(number.toFixed(digits));
    return String(rounded === 0 ? 0 : rounded).replace("-", "−");
  }

  const vector = (numbers, digits) => `(${numbers.map((x) => text(x, digits)).join(", ")})`;

  /* What changed, told to screen readers as well. */
  const said = () => html("p", { class: "move-said", "aria-live": "polite" });

  const table = (label, head, rows) => html("table", { "aria-label": label },
    html("thead", {}, html("tr", {}, head.map((cell) => html("th", { scope: "col" }, cell)))),
    html("tbody", {}, rows.map((cells) => html("tr", { class: cells.mark || null },
      (cells.cells || cells).map((cell, i) =>
        html(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))));

  window.smfPage = { html, svg, slider, whole, choice, button, piece, text, vector, said, table };
})();
