// A comparison: the captions of two revisions on the same photos.

const data = readJson("photo-data");
const thumbnails = readJson("photo-thumbnails");
const SPLITS = { train: "training", val: "validation", test: "test" };
const words = (name) => name.replaceAll("_", " ");

const photos = data.photos.map((photo, row) => {
  const label = photo.label ? photo.label.join("_") : null;
  const path = thumbnails.path[row];
  const haystack = [photo.image_id, path, label, photo.first, photo.second].filter((one) => one).join("\n").toLowerCase();
  const right = photo.verdicts.map((letters) => [...letters].filter((letter) => letter === "r").length);
  return { ...photo, id: photo.image_id, row, label, object: photo.label ? photo.label.at(-1) : null, path, haystack, gain: right[1] - right[0] };
});

const tests = {
  q: (photo, value) => value.toLowerCase().split(/\s+/).every((part) => photo.haystack.includes(part)),
  kind: (photo, value) => (value === "differs" ? photo.kind !== "same" : photo.kind === value),
  split: (photo, value) => photo.split === value,
  object: (photo, value) => photo.object === value,
};
const sorts = { worse: (one, other) => one.gain - other.gain, better: (one, other) => other.gain - one.gain };

function picture(photo) {
  const alt = photo.label ? `Photo labelled ${words(photo.label).replaceAll(".", " ")}` : `Photo ${photo.id}, without a label`;
  return make("img", { src: `data:image/webp;base64,${thumbnails.webp[photo.row]}`, alt, loading: "lazy", decoding: "async" });
}

function marked(spans) {
  return make("span", { class: "words" }, ...spans.map(([text, differs]) => (differs ? make("mark", {}, breakable(text)) : breakable(text))));
}

const KINDS = { better: "right", worse: "wrong", changed: "", same: "" };
const kind = (photo) => make("span", { class: `kind ${KINDS[photo.kind]}` }, photo.kind);

function drawCard(photo) {
  const texts = photo.kind === "same" ? [photo.marks[0]] : photo.marks;
  return [
    make("span", { class: "picture" }, picture(photo)),
    ...texts.flatMap((spans, at) => [
      make("span", { class: "note" }, photo.kind === "same" ? "both" : data.names[at]),
      marked(spans),
    ]),
    kind(photo),
  ];
}

function told(photo, at) {
  const letters = photo.verdicts[at];
  const known = data.places.map((place, position) => [words(place), letters[position]]).filter(([, letter]) => letter !== "u");
  const spans = known.map(([place, letter]) => make("span", { class: `verdict ${letter === "r" ? "right" : "wrong"}` }, `${place} ${letter === "r" ? "right" : "wrong"}`));
  return make("dd", {}, marked(photo.marks[at]), make("span", { class: "verdicts" }, ...spans));
}

function drawPhoto(photo) {
  const rows = [
    ["Photo", make("dd", {}, breakable(photo.id))],
    photo.path && photo.path !== photo.id ? ["Path", make("dd", {}, breakable(photo.path))] : null,
    ["Split", make("dd", {}, SPLITS[photo.split] ?? "none")],
    ["Label", make("dd", {}, photo.label ? breakable(photo.label) : "none: right and wrong of what a label tells are not known")],
    [data.names[0], told(photo, 0)],
    [data.names[1], told(photo, 1)],
  ];
  const list = make("dl", { class: "said" }, ...rows.filter((row) => row).map(([name, value]) => make("div", {}, make("dt", {}, name), value)));
  return [make("div", { class: "picture" }, picture(photo)), make("div", { class: "told" }, make("h3", {}, kind(photo)), list)];
}

const csv = {
  name: "comparison.csv",
  columns: {
    image_id: (photo) => photo.id,
    path: (photo) => photo.path,
    split: (photo) => photo.split,
    label: (photo) => photo.label,
    caption: (photo) => photo.kind,
    first: (photo) => photo.first,
    second: (photo) => photo.second,
    ...Object.fromEntries(
      ["first", "second"].flatMap((name, at) =>
        data.places.map((place, position) => [
          `${name}_${place}`,
          (photo) => ({ r: "right", w: "wrong", u: "unknown" })[photo.verdicts[at][position]],
        ]),
      ),
    ),
  },
};

const form = document.getElementById("find");
fillSelect(form.elements.split, Object.entries(SPLITS).filter(([name]) => photos.some((photo) => photo.split === name)));
fillSelect(form.elements.object, namesOf(photos.map((photo) => photo.object)));
const listing = startListing({ photos, tests, sorts, drawCard, drawPhoto, csv });
for (const shortcut of document.querySelectorAll("[data-ask]")) {
  shortcut.addEventListener("click", () => listing.ask(JSON.parse(shortcut.dataset.ask)));
}
markScrolling();
