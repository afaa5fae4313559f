// A list of photos that a form filters and sorts: what the report and a comparison share.
// Texts reach the page as text nodes alone, never as markup: they come from other people's files.

const PAGE_SIZE = 48;
const HASH = "#photos?";

const readJson = (id) => JSON.parse(document.getElementById(id).textContent);
const count = (number) => number.toLocaleString("en-US");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function fillSelect(select, options) {
  for (const option of options) {
    if (Array.isArray(option)) select.append(make("option", { value: option[0] }, option[1]));
    else select.append(make("option", { value: option }, option));
  }
}

// The text with places to break a line after dots, underscores and hyphens.
function breakable(text) {
  const parts = text.split(/(?<=[._-])(?=\S)/);
  const fragment = document.createDocumentFragment();
  parts.forEach((part, index) => fragment.append(...(index ? [make("wbr"), part] : [part])));
  return fragment;
}

const namesOf = (values) => [...new Set(values)].filter((value) => value).sort();

// ---------------------------------------------------------------- CSV, as RFC 4180 has it

function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  // A spreadsheet runs a text that begins so as a formula, wherever the file came from.
  const text = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(name, columns, rows) {
  const lines = [Object.keys(columns), ...rows.map((row) => Object.values(columns).map((of) => of(row)))];
  const text = lines.map((cells) => cells.map(csvCell).join(",") + "\r\n").join("");
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

// ---------------------------------------------------------------- the list

// photos: objects with an `id`; tests: by name of a control, (photo, value, form values) -> boolean;
// sorts: by name, a comparison; drawCard and drawPhoto: elements that show one; csv: name and columns.
function startListing({ photos, tests, sorts, drawCard, drawPhoto, csv }) {
  const form = document.getElementById("find");
  const list = document.getElementById("found");
  const dialog = document.getElementById("photo");
  const body = document.getElementById("photo-body");
  const places = new Map(photos.map((photo, place) => [photo.id, place]));
  const state = { found: photos, page: 0, opened: null };

  const values = () =>
    Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));

  function find() {
    const asked = values();
    const active = Object.entries(asked).filter(([name]) => tests[name]);
    state.found = photos.filter((photo) => active.every(([name, value]) => tests[name](photo, value, asked)));
    // Sorting is stable: photos that a comparison does not part stay in the catalog's order.
    if (sorts[asked.sort]) state.found.sort(sorts[asked.sort]);
    state.page = 0;
    drawPage();
  }

  function drawPage() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE_SIZE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const first = state.page * PAGE_SIZE;
    const cards = state.found.slice(first, first + PAGE_SIZE).map((photo) => {
      const button = make("button", { type: "button", class: "open", "data-id": photo.id }, ...drawCard(photo));
      return make("li", { class: "card" }, button);
    });
    list.replaceChildren(...cards);
    document.getElementById("found-none").hidden = cards.length > 0;
    document.getElementById("found-count").textContent =
      `${count(state.found.length)} of ${count(photos.length)} photos`;
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pages === 1;
      pager.querySelector("output").textContent = `Page ${count(state.page + 1)} of ${count(pages)}`;
      pager.querySelector("[data-step='-1']").disabled = state.page === 0;
      pager.querySelector("[data-step='1']").disabled = state.page === pages - 1;
    }
  }

  // The address keeps what is asked and what is open, so that a link or a reload shows it again.
  function remember(isStep) {
    const asked = new URLSearchParams(values());
    if (state.opened !== null) asked.set("photo", photos[state.opened].id);
    const hash = [...asked].length ? HASH + asked : "#photos";
    if (location.hash === hash || (hash === "#photos" && !location.hash.startsWith(HASH))) return;
    history[isStep ? "pushState" : "replaceState"](null, "", hash);
  }

  function restore() {
    if (!location.hash.startsWith(HASH)) {
      if (dialog.open) dialog.close();
      return;
    }
    const asked = new URLSearchParams(location.hash.slice(HASH.length));
    form.reset();
    for (const control of form.elements) {
      if (control.name && asked.has(control.name)) control.value = asked.get(control.name);
    }
    find();
    const place = places.get(asked.get("photo"));
    if (place !== undefined) open(place, false);
    else if (dialog.open) dialog.close();
  }

  // ---- one photo

  function open(place, isStep) {
    state.opened = place;
    const photo = photos[place];
    const turn = state.found.indexOf(photo);
    body.replaceChildren(...drawPhoto(photo));
    document.getElementById("photo-turn").textContent =
      turn < 0 ? "" : `${count(turn + 1)} of ${count(state.found.length)}`;
    dialog.querySelector("[data-step='-1']").disabled = turn <= 0;
    dialog.querySelector("[data-step='1']").disabled = turn < 0 || turn === state.found.length - 1;
    if (!dialog.open) {
      dialog.showModal();
      // Not by the attribute autofocus, which Chromium complains of beside a hash in the address.
      dialog.querySelector("[data-close]").focus();
    }
    dialog.scrollTop = 0;
    remember(isStep);
  }

  function step(by) {
    const next = state.found[state.found.indexOf(photos[state.opened]) + by];
    if (next) open(places.get(next.id), false);
  }

  dialog.addEventListener("close", () => {
    const photo = photos[state.opened];
    state.opened = null;
    remember(false);
    // Back to the card of the photo that was last open, on whichever page it stands.
    const turn = state.found.indexOf(photo);
    if (turn < 0) return;
    const page = Math.floor(turn / PAGE_SIZE);
    if (page !== state.page) {
      state.page = page;
      drawPage();
    }
    list.children[turn % PAGE_SIZE].firstChild.focus();
  });
  dialog.addEventListener("click", (event) => {
    const by = event.target.closest("[data-step]");
    if (by) step(Number(by.dataset.step));
    else if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });

  // ---- the form and the cards

  const refind = () => {
    find();
    remember(false);
  };
  // What is typed counts at once, what is chosen when the choice is made.
  form.addEventListener("input", (event) => event.target.matches("select") || refind());
  form.addEventListener("change", (event) => event.target.matches("select") && refind());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refind));
  document.getElementById("download").addEventListener("click", () => download(csv.name, csv.columns, state.found));
  for (const pager of document.querySelectorAll(".pager")) {
    pager.addEventListener("click", (event) => {
      const by = event.target.closest("[data-step]");
      if (!by) return;
      state.page += Number(by.dataset.step);
      drawPage();
      document.getElementById("found-count").scrollIntoView({ block: "nearest" });
    });
  }
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-id]");
    if (button) open(places.get(button.dataset.id), true);
  });
  list.addEventListener("keydown", (event) => {
    const cards = [...list.querySelectorAll("button[data-id]")];
    const here = cards.indexOf(document.activeElement);
    if (here < 0) return;
    const top = cards[0].offsetTop;
    const columns = cards.filter((card) => card.offsetTop === top).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const target = by && cards[here + by];
    if (!target) return;
    event.preventDefault();
    target.focus();
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input:not([type='checkbox']), select, textarea, dialog");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
    event.preventDefault();
    form.elements.q.focus();
  });
  // Both come from the Back button, and from an address that is edited or clicked.
  addEventListener("popstate", restore);
  addEventListener("hashchange", restore);

  find();
  restore();

  return {
    // Ask for other values, and none of the old ones.
    ask(asked) {
      form.reset();
      for (const [name, value] of Object.entries(asked)) form.elements[name].value = value;
      refind();
      document.getElementById("photos").scrollIntoView();
      document.getElementById("found-count").focus();
    },
  };
}

// ---------------------------------------------------------------- wide tables

// A region that scrolls says so, until it was scrolled: a phone shows no scroll bar.
function markScrolling() {
  const regions = [...document.querySelectorAll(".scroll")];
  const measure = (region) => {
    const hidden = region.scrollWidth - region.clientWidth;
    region.classList.toggle("more-right", hidden - region.scrollLeft > 2);
    region.classList.toggle("more-left", region.scrollLeft > 2);
  };
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => measure(entry.target)));
  for (const region of regions) {
    watcher.observe(region);
    region.addEventListener("scroll", () => measure(region), { passive: true });
  }
}
