// The report: photos with all that is said of them, and how often that is true.

const data = readJson("photo-data");
const thumbnails = readJson("photo-thumbnails");
const { places, groups, measures, texts } = data;
const SPLITS = { train: "training", val: "validation", test: "test" };
const VERDICTS = { r: "right", w: "wrong", u: "no truth" };
const hasFree = data.photos.free.some((text) => text !== null);
const TEXTS = {
  recommended: "Recommended text",
  caption: hasFree ? "Caption by grammar" : "Caption",
  free: "Caption, written freely",
  untrained: "Caption, untrained",
  enhanced: "Enhanced prompt (by machine)",
};
const CAPTIONERS = { base: "untrained", finetuned: hasFree ? "by grammar" : "fine-tuned", finetuned_free: "freely" };
const MEASURES = { bleu: "BLEU", rouge1: "ROUGE-1", rouge2: "ROUGE-2", rougeL: "ROUGE-L", cider_d: "CIDEr-D (0 to 10)", meteor_stem: "METEOR, exact and stem", bert_score: "BERTScore", cosine: "Cosine of text vectors", clip_score: "CLIPScore", ref_clip_score: "RefCLIPScore", clip_caption: "CLIP: photo and caption", clip_reference: "CLIP: photo and enhanced prompt" };

const words = (name) => name.replaceAll("_", " ");
const spoken = (name) => name.replaceAll(".", " ").replaceAll("_", " ");
const text = (number) => (number === null ? null : texts[number]);
const share = (tenThousandths) => tenThousandths / 10000;
// Where photos are labelled with objects alone, there is no attribute anywhere.
const pair = (attribute, object) => (attribute === null ? object : `${attribute}_${object}`);
const named = places.filter((place) => place === "attribute" || place === "object");
const unlabelled = `none: right and wrong of ${named.join(" and ")} ${named.length > 1 ? "are" : "is"} not known`;

// ---------------------------------------------------------------- photos, from columns

function readPhotos() {
  const columns = data.photos;
  return columns.id.map((id, row) => {
    const all = (by) => Object.fromEntries(Object.entries(by).map(([name, column]) => [name, column[row]]));
    const attribute = text(columns.attribute[row]);
    const object = text(columns.object[row]);
    const photo = {
      id,
      row,
      path: thumbnails.paths[row],
      split: columns.split[row],
      label: object === null ? null : pair(attribute, object),
      attribute,
      object,
      truth: Object.fromEntries(groups.map(({ name }) => [name, (columns.true[name][row] || []).map(text)])),
      top: columns.top[row].map(([a, o, p]) => [text(a), text(o), share(p)]),
      scores: all(columns.scores),
      lead: all(columns.lead),
      said: Object.fromEntries(places.map((place) => [place, text(columns.said[place][row])])),
      source: text(columns.source[row]),
      readable: text(columns.readable[row]),
      verdicts: all(columns.verdicts),
      measured: all(columns.measured),
    };
    for (const name of Object.keys(TEXTS)) photo[name] = text(columns[name][row]);
    photo.verdict = overall(photo.verdicts.recommended);
    photo.wrong = [...photo.verdicts.recommended].filter((letter) => letter === "w").length;
    photo.confidence = photo.top[0][2];
    photo.smallestLead = Math.min(...groups.map(({ name }) => photo.lead[name]));
    const bleu = photo.measured.finetuned;
    photo.bleu = bleu ? share(bleu[measures.indexOf("bleu")]) : null;
    photo.haystack = [id, photo.path, photo.label, photo.readable, ...Object.keys(TEXTS).map((name) => photo[name])]
      .filter((one) => one)
      .join("\n")
      .toLowerCase();
    return photo;
  });
}

// Wrong where any part is; right where all that can be judged is.
function overall(letters) {
  if (letters.includes("w")) return "w";
  return letters.includes("r") ? "r" : "u";
}

// ---------------------------------------------------------------- finding

// A value is looked for in what the recommended text says, in labels and truth, or in both.
function has(photo, place, value, where) {
  const truths = place in photo.truth ? photo.truth[place] : [photo[place]];
  return (where !== "truth" && photo.said[place] === value) || (where !== "text" && truths.includes(value));
}

const tests = {
  q: (photo, value) => value.toLowerCase().split(/\s+/).every((part) => photo.haystack.includes(part)),
  attribute: (photo, value, { where }) => has(photo, "attribute", value, where),
  object: (photo, value, { where }) => has(photo, "object", value, where),
  word: (photo, value, { where }) => {
    const [group, word] = JSON.parse(value);
    return has(photo, group, word, where);
  },
  verdict: (photo, value, { part }) => (part ? photo.verdicts.recommended[places.indexOf(part)] : photo.verdict) === value,
  split: (photo, value) => photo.split === value,
  source: (photo, value) => photo.source === value,
  least: (photo, value) => 100 * photo.confidence >= Number(value),
  most: (photo, value) => 100 * photo.confidence <= Number(value),
};

const lowFirst = (of) => (one, other) => (of(one) ?? Infinity) - (of(other) ?? Infinity);
const sorts = {
  worst: (one, other) => other.wrong - one.wrong || lowFirst((photo) => photo.bleu)(one, other),
  unsure: lowFirst((photo) => photo.confidence),
  sure: lowFirst((photo) => -photo.confidence),
  lead: lowFirst((photo) => photo.smallestLead),
  bleu: lowFirst((photo) => photo.bleu),
  object: (one, other) => (one.said.object ?? "").localeCompare(other.said.object ?? "", "en"),
};

// ---------------------------------------------------------------- drawing

function picture(photo) {
  const alt = photo.label ? `Photo labelled ${spoken(photo.label)}` : `Photo ${photo.id}, without a label`;
  const source = `data:image/webp;base64,${thumbnails.webp[photo.row]}`;
  return make("img", { src: source, alt, loading: "lazy", decoding: "async" });
}

function badge(photo) {
  const letters = [...photo.verdicts.recommended];
  const wrong = places.filter((_, place) => letters[place] === "w");
  const said = photo.verdict === "w" ? `wrong: ${wrong.map(words).join(", ")}` : VERDICTS[photo.verdict];
  return make("span", { class: `verdict ${VERDICTS[photo.verdict].replace(" ", "-")}` }, said);
}

function drawCard(photo) {
  return [
    make("span", { class: "picture" }, picture(photo)),
    make("span", { class: "words" }, breakable(photo.readable ?? photo.recommended)),
    badge(photo),
    photo.label && photo.verdict === "w" ? make("span", { class: "note" }, "label: ", breakable(photo.label)) : null,
  ].filter((part) => part);
}

function facts(rows) {
  const list = make("dl", { class: "said" });
  for (const [name, ...value] of rows) {
    list.append(make("div", {}, make("dt", {}, name), make("dd", {}, ...value)));
  }
  return list;
}

// A text with the places in which it is wrong, or off the template, named behind it.
function judged(photo, name) {
  const letters = photo.verdicts[name];
  const marks = places.map((place, at) => [words(place), letters[at]]).filter(([, letter]) => letter !== "u");
  const spans = marks.map(([place, letter]) =>
    make("span", { class: `verdict ${VERDICTS[letter]}` }, `${place} ${VERDICTS[letter]}`),
  );
  return [breakable(photo[name]), make("span", { class: "verdicts" }, ...spans)];
}

function table(caption, heads, rows) {
  const head = make("tr", {}, ...heads.map((name, at) => make("th", { scope: "col", class: at ? "number" : null }, name)));
  const lines = rows.map(([name, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", { class: "number" }, cell))),
  );
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...lines));
}

function bar(length) {
  const width = `width: ${(100 * Math.min(Math.max(length, 0), 1)).toFixed(1)}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, make("span", { style: width }));
}

function barTable(caption, rows) {
  const lines = rows.map(([name, length, amount, isChosen]) =>
    make("tr", { class: isChosen ? "chosen" : null }, make("th", { scope: "row" }, breakable(name)), make("td", {}, bar(length)), make("td", { class: "number" }, amount)),
  );
  return make("table", { class: "scores" }, make("caption", {}, caption), make("tbody", {}, ...lines));
}

function groupScores(photo, { name, words: vocabulary }) {
  const scores = photo.scores[name];
  const ranked = vocabulary.map((word, at) => [word, share(scores[at])]).sort((one, other) => other[1] - one[1]);
  const lead = share(photo.lead[name]).toFixed(3);
  return barTable(
    `${words(name)}: cosine of every word; lead of the first ${lead}`,
    ranked.map(([word, score], at) => [word, score, score.toFixed(3), at === 0]),
  );
}

function metricTable(photo) {
  const scored = Object.entries(photo.measured).filter(([, values]) => values !== null);
  if (!scored.length) return make("p", { class: "note" }, "Not scored: metrics are of test photos.");
  const known = (at) => scored.some(([, values]) => values[at] !== null);
  const rows = measures.flatMap((name, at) => (known(at) ? [[MEASURES[name], ...scored.map(([, values]) => share(values[at]).toFixed(3))]] : []));
  rows.push(["Word for word the enhanced prompt", ...scored.map(([, values]) => (values[measures.length] ? "yes" : "no"))]);
  rows.push(["CLIP prefers", ...scored.map(([, values]) => ({ caption: "the caption", enhanced: "the enhanced prompt", tie: "neither" })[values[measures.length + 1]])]);
  const region = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Metrics of this photo" });
  region.append(table("Captions against the enhanced prompt (by machine)", ["Metric", ...scored.map(([name]) => CAPTIONERS[name] ?? words(name))], rows));
  return region;
}

function drawPhoto(photo) {
  const truths = groups.filter(({ name }) => photo.truth[name].length).map(({ name }) => `${words(name)} ${photo.truth[name].join(" or ")}`);
  const written = Object.entries(TEXTS).filter(([name]) => photo[name] !== null);
  return [
    make("div", { class: "picture" }, picture(photo)),
    make(
      "div",
      { class: "told" },
      make("h3", { id: "photo-heading" }, breakable(photo.readable ?? photo.id)),
      facts([
        ["Photo", breakable(photo.id)],
        photo.path && photo.path !== photo.id ? ["Path", breakable(photo.path)] : null,
        ["Split", SPLITS[photo.split]],
        truths.length ? ["Truth", truths.join("; ")] : null,
        ["Label", photo.label ? breakable(photo.label) : unlabelled],
      ].filter((row) => row)),
      make("h4", {}, "Texts"),
      facts([
        ...written.map(([name, title]) => [name === "recommended" ? `${title} (the ${photo.source === "enhanced" ? "enhanced prompt" : "caption"})` : title, ...judged(photo, name)]),
        photo.readable ? ["In a shop's words", photo.readable] : null,
      ].filter((row) => row)),
      make("h4", {}, "Scores"),
      make(
        "div",
        { class: "score-columns" },
        barTable(`Troika's best ${named.length > 1 ? "pairs" : "objects"} and their probabilities`, photo.top.map(([a, o, p], at) => [pair(a, o), p, percent(p), at === 0])),
        ...groups.map((group) => groupScores(photo, group)),
      ),
      make("h4", {}, "Metrics"),
      metricTable(photo),
    ),
  ];
}

// ---------------------------------------------------------------- accuracy by object, attribute, pair, word

const MOST_ROWS = 300;
const KINDS = {
  object: { title: "Object", key: (photo) => (photo.object ? [photo.object] : []), at: ["object"], ask: (key) => ({ object: key }) },
  attribute: { title: "Attribute", key: (photo) => (photo.attribute ? [photo.attribute] : []), at: ["attribute"], ask: (key) => ({ attribute: key }) },
  pair: {
    title: "Pair",
    key: (photo) => (photo.label ? [photo.label] : []),
    at: ["attribute", "object"],
    ask: (_, photo) => ({ attribute: photo.attribute, object: photo.object }),
  },
};
if (named.length === 1) {
  delete KINDS.attribute;
  delete KINDS.pair;
}
for (const { name } of groups) {
  const ask = (key) => ({ word: JSON.stringify([name, key]) });
  KINDS[name] = { title: words(name), key: (photo) => photo.truth[name], at: [name], ask };
}
const ACCURACIES = [["enhanced", "Enhanced prompt right"], ["caption", "Caption right"], ["recommended", "Recommended text right"]];

function tally(photos, kind) {
  const at = kind.at.map((place) => places.indexOf(place));
  const rows = new Map();
  for (const photo of photos) {
    for (const key of kind.key(photo)) {
      if (!rows.has(key)) rows.set(key, { key, photo, photos: 0, counts: ACCURACIES.map(() => [0, 0]) });
      const row = rows.get(key);
      row.photos += 1;
      ACCURACIES.forEach(([name], place) => {
        const letters = photo.verdicts[name];
        if (!letters) return;
        row.counts[place][1] += 1;
        if (at.every((position) => letters[position] === "r")) row.counts[place][0] += 1;
      });
    }
  }
  return [...rows.values()];
}

function startAccuracy(photos, ask) {
  const by = document.getElementById("accuracy-by");
  const head = document.getElementById("accuracy-head");
  const body = document.getElementById("accuracy-rows");
  const note = document.getElementById("accuracy-note");
  const split = document.getElementById("accuracy-split");
  const order = { column: 1, down: true };
  fillSelect(by, Object.entries(KINDS).map(([name, { title }]) => [name, title.toLowerCase()]));
  // Test photos first: the others were learnt from, or chosen by.
  const names = ["test", "val", "train"].filter((name) => photos.some((photo) => photo.split === name && photo.verdict !== "u"));
  fillSelect(split, [...names.map((name) => [name, `${SPLITS[name]} photos`]), ["", "all photos"]]);

  const value = (row, column) => {
    if (column === 0) return row.key;
    if (column === 1) return row.photos;
    const [right, all] = row.counts[column - 2];
    return all ? right / all : null;
  };

  function draw() {
    const kind = KINDS[by.value];
    const rows = tally(photos.filter((photo) => !split.value || photo.split === split.value), kind);
    const turn = order.down ? -1 : 1;
    rows.sort((one, other) => {
      const [a, b] = [value(one, order.column), value(other, order.column)];
      if (a === null || b === null) return (a === null) - (b === null);
      return turn * (typeof a === "string" ? a.localeCompare(b, "en") : a - b) || one.key.localeCompare(other.key, "en");
    });
    const titles = [kind.title, "Photos", ...ACCURACIES.map(([, title]) => title)];
    head.replaceChildren(
      ...titles.map((title, column) => {
        const sorted = order.column !== column ? null : order.down ? "descending" : "ascending";
        const button = make("button", { type: "button", "data-column": column }, title);
        return make("th", { scope: "col", class: column ? "number" : null, "aria-sort": sorted }, button);
      }),
    );
    body.replaceChildren(
      ...rows.slice(0, MOST_ROWS).map((row) => {
        const link = make("button", { type: "button", class: "link", "data-key": row.key }, breakable(row.key));
        const cells = row.counts.map(([right, all]) =>
          make("td", { class: "number" }, all ? `${percent(right / all)} ` : "none", all ? make("small", {}, `${count(right)} of ${count(all)}`) : null),
        );
        return make("tr", {}, make("th", { scope: "row" }, link), make("td", { class: "number" }, count(row.photos)), ...cells);
      }),
    );
    body.closest(".scroll").hidden = rows.length === 0;
    note.textContent = !rows.length
      ? "None of these photos has a label or truth of this kind, so nothing can be counted."
      : rows.length > MOST_ROWS
        ? `The first ${count(MOST_ROWS)} of ${count(rows.length)} rows; sort for others.`
        : "";
  }

  head.addEventListener("click", (event) => {
    const button = event.target.closest("[data-column]");
    if (!button) return;
    const column = Number(button.dataset.column);
    order.down = order.column === column ? !order.down : column > 0;
    order.column = column;
    draw();
    head.querySelector(`[data-column='${column}']`).focus();
  });
  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-key]");
    if (!button) return;
    const kind = KINDS[by.value];
    const key = button.dataset.key;
    const first = photos.find((photo) => kind.key(photo).includes(key));
    ask({ ...kind.ask(key, first), where: "truth", split: split.value, sort: "worst" });
  });
  by.addEventListener("change", draw);
  split.addEventListener("change", draw);
  draw();
}

// ---------------------------------------------------------------- start

const photos = readPhotos();
const form = document.getElementById("find");
form.elements.attribute.closest("label").hidden = named.length === 1;
for (const place of named) {
  fillSelect(form.elements[place], namesOf(photos.flatMap((photo) => [photo[place], photo.said[place]])));
}
for (const { name } of groups) {
  const found = namesOf(photos.flatMap((photo) => [photo.said[name], ...photo.truth[name]]));
  const options = make("optgroup", { label: words(name) });
  fillSelect(options, found.map((word) => [JSON.stringify([name, word]), word]));
  form.elements.word.append(options);
}
fillSelect(form.elements.part, places.map((place) => [place, words(place)]));
fillSelect(form.elements.split, Object.entries(SPLITS).filter(([name]) => photos.some((photo) => photo.split === name)));

const csvColumns = {
  image_id: (photo) => photo.id,
  path: (photo) => photo.path,
  split: (photo) => photo.split,
  label_attribute: (photo) => photo.attribute,
  label_object: (photo) => photo.object,
  troika_attribute: (photo) => photo.top[0][0],
  troika_object: (photo) => photo.top[0][1],
  troika_probability: (photo) => photo.confidence,
  recommended: (photo) => photo.recommended,
  source: (photo) => photo.source,
  readable: (photo) => photo.readable,
  verdict: (photo) => ({ r: "right", w: "wrong", u: "unknown" })[photo.verdict],
  caption: (photo) => photo.caption,
  free_caption: (photo) => photo.free,
  untrained_caption: (photo) => photo.untrained,
  enhanced: (photo) => photo.enhanced,
  bleu: (photo) => photo.bleu,
};
for (const [at, place] of places.entries()) {
  csvColumns[`said_${place}`] = (photo) => photo.said[place];
  csvColumns[`verdict_${place}`] = (photo) => ({ r: "right", w: "wrong", u: "unknown" })[photo.verdicts.recommended[at]];
}
for (const { name } of groups) {
  csvColumns[`true_${name}`] = (photo) => photo.truth[name].join(";");
  csvColumns[`lead_${name}`] = (photo) => share(photo.lead[name]);
}

const listing = startListing({ photos, tests, sorts, drawCard, drawPhoto, csv: { name: "photos.csv", columns: csvColumns } });
startAccuracy(photos, listing.ask);
for (const shortcut of document.querySelectorAll("[data-ask]")) {
  shortcut.addEventListener("click", () => listing.ask(JSON.parse(shortcut.dataset.ask)));
}
markScrolling();
