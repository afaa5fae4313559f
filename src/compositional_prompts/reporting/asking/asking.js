// One question at a time: which word of a group is true of a photo.

const asked = readJson("asked");
const pictures = readJson("pictures");
const find = (id) => document.getElementById(id);
const spoken = (name) => name.replaceAll("_", " ");

// Keys for words in their order; none for those beyond, which are picked by a click.
const WORD_KEYS = [..."123456789", ..."qwertyuiopasdfghjklzxcvbnm"];
const NONE_KEY = "0";
const UNKNOWN_KEY = "-";
const STORAGE = `compositional-prompts/labels/${asked.mark}`;

// answers: of each question the words picked, [none] or [unknown] of the two other choices, or null.
// done: what was changed, for undo: question and the answer before.
const state = { at: 0, answers: asked.questions.map(() => null), done: [], saved: 0, changes: 0 };

// ---------------------------------------------------------------- kept in the browser

function isAnswer(answer, group) {
  if (answer === null) return true;
  if (!Array.isArray(answer) || !answer.length) return false;
  const single = answer.length === 1 && (answer[0] === asked.none || answer[0] === asked.unknown);
  return single || answer.every((word) => asked.groups[group].words.includes(word));
}

function warn(text) {
  find("kept").hidden = !text;
  find("kept").textContent = text;
}

function keep() {
  try {
    localStorage.setItem(STORAGE, JSON.stringify({ at: state.at, answers: state.answers, saved: isSaved() }));
    warn("");
  } catch {
    warn("This browser keeps nothing of this page: download the CSV before you close it.");
  }
}

function restore() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(STORAGE));
  } catch {
    kept = null;
  }
  const fits =
    kept &&
    Array.isArray(kept.answers) &&
    kept.answers.length === asked.questions.length &&
    kept.answers.every((answer, at) => isAnswer(answer, asked.questions[at].group));
  if (!fits) return;
  state.answers = kept.answers;
  state.at = Number.isInteger(kept.at) ? Math.min(Math.max(kept.at, 0), asked.questions.length - 1) : 0;
  state.changes = kept.saved ? 0 : 1;
}

// Another window with this page has gone on: what was picked there counts here.
addEventListener("storage", (event) => {
  if (event.key !== STORAGE) return;
  const at = state.at;
  restore();
  state.at = at;
  draw(at);
});

const isSaved = () => state.saved === state.changes;
addEventListener("beforeunload", (event) => {
  let isKept = false;
  try {
    isKept = localStorage.getItem(STORAGE) !== null;
  } catch {
    isKept = false;
  }
  if (!isKept && !isSaved()) event.preventDefault();
});

// ---------------------------------------------------------------- answers

function set(at, answer, isUndo) {
  if (!isUndo) state.done.push([at, state.answers[at]]);
  state.answers[at] = answer;
  state.changes += 1;
}

// One word is the answer and leads on; of several, each is added or taken away.
function pick(word, isMore) {
  const isWord = word !== asked.none && word !== asked.unknown;
  if (isWord && isMore) {
    const before = (state.answers[state.at] ?? []).filter((one) => one !== asked.none && one !== asked.unknown);
    const after = before.includes(word) ? before.filter((one) => one !== word) : [...before, word];
    set(state.at, after.length ? after : null);
    show(state.at);
  } else {
    set(state.at, [word]);
    show(Math.min(state.at + 1, asked.questions.length - 1));
  }
}

function undo() {
  const last = state.done.pop();
  if (!last) return;
  set(last[0], last[1], true);
  show(last[0]);
}

const firstOpen = () => {
  const at = state.answers.indexOf(null);
  return at < 0 ? state.at : at;
};

// ---------------------------------------------------------------- the page

function choice(word, key, answer, isSuggested) {
  const button = make(
    "button",
    { type: "button", "data-word": word, "aria-pressed": String((answer ?? []).includes(word)), class: isSuggested ? "suggested" : null },
    make("kbd", {}, key ?? "·"),
    word,
  );
  if (isSuggested) button.title = "suggested";
  return button;
}

function show(at) {
  state.at = at;
  draw(at);
  keep();
}

function draw(at) {
  const question = asked.questions[at];
  const photo = asked.photos[question.photo];
  const group = asked.groups[question.group];
  const answer = state.answers[at];
  find("picture").replaceChildren(
    make("img", { src: `data:image/webp;base64,${pictures.webp[question.photo]}`, alt: `Photo ${photo.id}` }),
  );
  const path = pictures.paths[question.photo];
  find("photo").replaceChildren(breakable(photo.id), path && path !== photo.id ? ` (${path})` : "");
  find("question").textContent = `Which ${spoken(group.name)}?`;
  find("choices").replaceChildren(
    ...group.words.map((word, place) => choice(word, WORD_KEYS[place], answer, word === question.suggestion)),
  );
  find("others").replaceChildren(choice(asked.none, NONE_KEY, answer), choice(asked.unknown, UNKNOWN_KEY, answer));
  find("back").disabled = at === 0;
  find("next").disabled = at === asked.questions.length - 1;
  find("undo").disabled = state.done.length === 0;
  const answered = state.answers.filter((one) => one).length;
  find("done").value = answered;
  find("open").disabled = answered === asked.questions.length;
  find("download").disabled = answered === 0;
  find("progress").textContent =
    `Question ${count(at + 1)} of ${count(asked.questions.length)}; ${count(answered)} answered` +
    (answered === asked.questions.length ? ": all of them. Download the CSV." : ".");
}

function isMore(event) {
  return event.shiftKey || find("several").checked;
}

for (const id of ["choices", "others"]) {
  find(id).addEventListener("click", (event) => {
    const button = event.target.closest("[data-word]");
    if (button) pick(button.dataset.word, isMore(event));
  });
}
const step = (by) => show(Math.min(Math.max(state.at + by, 0), asked.questions.length - 1));
find("back").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("undo").addEventListener("click", undo);
find("open").addEventListener("click", () => show(firstOpen()));
find("download").addEventListener("click", save);

// A key with Shift is another character: what it is on the keyboard says which digit it was.
function keyOf(event) {
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  return digit ? digit[1] : event.key.toLowerCase();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      undo();
    }
    return;
  }
  const words = asked.groups[asked.questions[state.at].group].words;
  const suggestion = asked.questions[state.at].suggestion;
  const onButton = event.target.closest("button, input, a");
  const key = keyOf(event);
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "Backspace") undo();
  else if (event.key === "Enter" && !onButton && suggestion !== null) pick(suggestion, false);
  else if (key === NONE_KEY) pick(asked.none, false);
  else if (key === UNKNOWN_KEY) pick(asked.unknown, false);
  else if (WORD_KEYS.includes(key) && WORD_KEYS.indexOf(key) < words.length) pick(words[WORD_KEYS.indexOf(key)], isMore(event));
  else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- what was picked

function save() {
  const rows = new Map();
  asked.questions.forEach((question, at) => {
    if (!state.answers[at]) return;
    const row = rows.get(question.photo) ?? { photo: asked.photos[question.photo], words: {} };
    row.words[question.group] = state.answers[at].join(asked.separator);
    rows.set(question.photo, row);
  });
  const columns = { image_id: (row) => row.photo.id, product_id: (row) => row.photo.product };
  asked.groups.forEach((group, place) => {
    columns[group.name] = (row) => row.words[place];
  });
  download(asked.file, columns, [...rows.values()]);
  state.saved = state.changes;
  keep();
}

restore();
show(state.at);
