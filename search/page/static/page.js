// What the page does beyond links and forms: it plays in place, takes dropped files, knows keys, keeps a history of queries.
"use strict";
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Playing in place ----------------------------------------------------------------------------------------------------
// Times are seconds of the file. A long video that the server converts is sent in parts: data-offset and data-end.
async function play(video, at, start = true) {
  const offset = Number(video.dataset.offset), end = Number(video.dataset.end ?? Infinity);
  video.dataset.wanted = at;
  if (at < offset || at >= end) {
    const answer = await fetch(`${video.dataset.where}?at=${at}`).catch(() => null);
    const part = answer?.ok ? await answer.json() : null;
    if (!part) return say(video, UNPLAYABLE);
    if (Number(video.dataset.wanted) !== at) return; // asked for another time meanwhile
    video.dataset.offset = part.offset_s;
    if (part.end_s === null) delete video.dataset.end; else video.dataset.end = part.end_s;
    video.src = part.url;
  }
  const begin = () => {
    const to = at - Number(video.dataset.offset);
    if (Math.abs(video.currentTime - to) > 0.05) video.currentTime = to;
    if (start) video.play().catch(() => {}); // a browser may ask for a click first: the controls are there
  };
  if (video.readyState >= 1) begin();
  else video.addEventListener("loadedmetadata", begin, { once: true });
}

const UNPLAYABLE = "This video cannot be played: it is damaged, gone, or the server is busy.";
function say(video, text) {
  const words = $(".wait", video.parentNode);
  if (words) { words.textContent = text; words.hidden = !text; }
}
function watch(video) {
  let slow;
  video.addEventListener("loadstart", () => {
    clearTimeout(slow);
    slow = setTimeout(() => { if (video.readyState < 2 && !video.error) say(video, "The server prepares this video for the browser…"); }, 1500);
  });
  for (const name of ["loadeddata", "playing"]) video.addEventListener(name, () => { clearTimeout(slow); say(video, ""); });
  video.addEventListener("error", () => { clearTimeout(slow); if (video.getAttribute("src")) say(video, UNPLAYABLE); });
  video.addEventListener("ended", () => { if (video.dataset.end) play(video, Number(video.dataset.end)); });
}

function open(card, at) {
  const shown = $(".hit.on");
  if (shown && shown !== card) close(shown, false);
  const template = $("template", card);
  if (!template) return false;
  if (!card.classList.contains("on")) {
    template.before(template.content.cloneNode(true));
    card.classList.add("on");
    const video = $("video", card);
    if (video) watch(video);
    card.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  }
  const video = $("video", card);
  if (video) play(video, at);
  (video || $(".shut", card)).focus({ preventScroll: true });
  return true;
}

function close(card, back = true) {
  card.classList.remove("on");
  const video = $("video", card);
  if (video) { video.removeAttribute("src"); video.load(); } // stops the transfer
  $(".screen", card)?.remove();
  if (back) $(".frame", card).focus();
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const link = event.target.closest("a.frame, a[data-at]");
  const card = event.target.closest(".hit");
  if (event.target.closest(".shut")) close(card);
  else if (link && card) {
    if (open(card, Number(link.dataset.at ?? card.dataset.start))) event.preventDefault();
  } else if (link && $(".player video")) {
    event.preventDefault();
    play($(".player video"), Number(link.dataset.at));
  }
});

// A picture that cannot be loaded gives way to the plain ground
document.addEventListener("error", (event) => { if (event.target.tagName === "IMG") event.target.hidden = true; }, true);

// The page of one video -----------------------------------------------------------------------------------------------
function curve() {
  const svg = $("#curve"), video = $(".player video");
  if (!video) return;
  watch(video);
  const start = Number($(".player").dataset.start);
  if (start) play(video, start, false);
  if (!svg) return;
  const from = Number(svg.dataset.from), to = Number(svg.dataset.to);
  const share = (event) => { const box = svg.getBoundingClientRect(); return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1); };
  const put = (line, at) => { for (const end of ["x1", "x2"]) line.setAttribute(end, `${100 * at}%`); };
  svg.addEventListener("click", (event) => play(video, from + share(event) * (to - from)));
  svg.addEventListener("pointermove", (event) => { put($(".under", svg), share(event)); $(".under", svg).style.visibility = "visible"; });
  svg.addEventListener("pointerleave", () => { $(".under", svg).style.visibility = "hidden"; });
  video.addEventListener("timeupdate", () => put($(".now", svg), Math.min(Math.max((video.currentTime + Number(video.dataset.offset) - from) / (to - from), 0), 1)));
}

// Searching with files ------------------------------------------------------------------------------------------------
async function take(files) {
  const form = $("#search"), file = [...files].find((each) => /^(image|video)\//.test(each.type));
  if (!$("#file")) return problem("This library cannot be searched with pictures.");
  if (!file) return problem("Only pictures and videos can be searched with.");
  const body = new FormData();
  body.append("file", file);
  body.append("library", form.elements.lib.value);
  problem("");
  $("#main").classList.add("htmx-request");
  try {
    const answer = await fetch("/api/uploads", { method: "POST", body });
    if (!answer.ok) return refused(answer.status, await answer.text());
    const term = document.createElement("input");
    term.type = "hidden";
    term.name = "file";
    term.value = `1*${(await answer.json()).id}`;
    form.append(term);
    form.requestSubmit();
  } catch { problem(GONE); } finally { $("#main").classList.remove("htmx-request"); }
}
document.addEventListener("change", (event) => { if (event.target.id === "file") take(event.target.files); });
const carries = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => { if (carries(event)) { event.preventDefault(); document.body.classList.add("dropping"); } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (carries(event)) { event.preventDefault(); take(event.dataTransfer.files); }
});
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); take(event.clipboardData.files); } });

// A choice searches at once, if there is a query
document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.id === "search" && !event.target.matches("#q, #file") && $("#main.asked")) form.requestSubmit();
});

// What went wrong -----------------------------------------------------------------------------------------------------
function problem(text) {
  const place = $("#problem");
  place.textContent = "";
  if (!text) return;
  const box = document.createElement("p");
  box.className = "notice problem";
  box.textContent = text;
  place.append(box);
}
document.addEventListener("htmx:beforeSwap", (event) => {
  const answer = event.detail.xhr;
  // An error of the page is HTML and says what is wrong; others are put in words below
  if (answer.status >= 400 && /^text\/html/.test(answer.getResponseHeader("Content-Type") ?? "")) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});
const GONE = "The server does not answer. Is supportset serve still running?";
function refused(status, text) {
  let said = "";
  try { said = JSON.parse(text).error ?? ""; } catch { /* no JSON */ }
  const known = { 401: "The server needs its token: open the address that serve printed.", 413: "The file is too large.", 429: "Too many requests: wait a moment, then try again.", 503: "The server is busy: wait a moment, then try again." };
  problem(known[status] ?? (said ? `The server says: ${said}` : `The server answers with an error (${status}).`));
}
document.addEventListener("htmx:responseError", (event) => refused(event.detail.xhr.status, event.detail.xhr.responseText));
document.addEventListener("htmx:sendError", () => problem(GONE));
document.addEventListener("htmx:timeout", () => problem("The server takes too long: try again."));
document.addEventListener("htmx:beforeRequest", () => problem(""));

// History of queries, kept in this browser ------------------------------------------------------------------------------
const KEPT = "supportset-queries", MOST = 30;
function recall() { try { return JSON.parse(localStorage.getItem(KEPT)) ?? []; } catch { return []; } }
function keep(text) {
  if (!text) return;
  try { localStorage.setItem(KEPT, JSON.stringify([text, ...recall().filter((each) => each !== text)].slice(0, MOST))); } catch { /* not allowed */ }
}
function offer() {
  const list = $("#history"), row = $("#recent"), texts = recall();
  list?.replaceChildren(...texts.map((text) => new Option("", text)));
  if (!row) return;
  $$("a", row).forEach((each) => each.remove());
  row.hidden = !texts.length;
  for (const text of texts.slice(0, 6)) {
    const link = document.createElement("a");
    link.className = "pill";
    link.href = `/?${new URLSearchParams({ q: text })}`;
    link.textContent = text;
    $("#forget").before(link);
  }
}
document.addEventListener("click", (event) => {
  if (event.target.id === "forget") { localStorage.removeItem(KEPT); offer(); $("#q").focus(); }
  if (event.target.closest("#show-keys")) $("#keys").showModal();
});

// Keys ----------------------------------------------------------------------------------------------------------------
function step(by) {
  const frames = $$(".frame").filter((each) => each.offsetParent || each.closest(".on"));
  const now = frames.findIndex((each) => each.closest(".hit")?.contains(document.activeElement));
  const next = frames[Math.min(Math.max(now + by, 0), frames.length - 1)];
  if (!next) return;
  const shown = next.closest(".on");
  (shown ? $("video, .shut", shown) : next).focus();
  next.closest(".hit")?.scrollIntoView({ block: "nearest" });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  const at = document.activeElement, card = at?.closest(".hit");
  if (event.key === "Escape" && $(".hit.on")) return close($(".hit.on"));
  if (at?.matches("input:not([type=radio]), select, textarea")) return;
  const arrows = !at?.matches("video, input, summary, .strip a");
  const act = {
    "/": () => { $("#q")?.focus(); $("#q")?.select(); },
    j: () => step(1), k: () => step(-1),
    ArrowRight: arrows && (() => step(1)), ArrowLeft: arrows && (() => step(-1)),
    m: card && (() => $(".like", card)?.click()),
    o: card && (() => $(".name a", card).click()),
    "?": () => $("#keys").showModal(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});

// After each page and each answer ---------------------------------------------------------------------------------------
let opened = [];
document.addEventListener("htmx:beforeSwap", () => { opened = $$("details[open][id]").map((each) => each.id); });
document.addEventListener("htmx:afterSwap", (event) => {
  opened.forEach((id) => { const each = document.getElementById(id); if (each && id !== "nearest") each.open = true; });
  const main = $("#main");
  if (event.detail.target?.id !== "main" || !main.dataset.title) return;
  document.title = main.dataset.title;
  $("#announce").textContent = main.dataset.said;
  keep($("#q").value.trim());
  offer();
});
$("#show-keys").hidden = false;
// The page is loaded anew when one goes back: what was asked before is not asked again
if (performance.getEntriesByType("navigation")[0]?.type === "navigate") keep(new URLSearchParams(location.search).get("q")?.trim());
offer();
curve();
