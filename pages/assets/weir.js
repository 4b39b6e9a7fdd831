"use strict";

// Copy buttons are hidden in pages without scripts.
function showCopyButtons(root) {
	for (const button of root.querySelectorAll("button.copy")) button.hidden = false;
}

// copyText copies a text. The clipboard of browsers is for pages by https or at localhost only, so
// other pages select the text and copy the selection.
async function copyText(text) {
	if (navigator.clipboard) return navigator.clipboard.writeText(text);
	const area = document.createElement("textarea");
	area.value = text;
	document.body.append(area);
	area.select();
	document.execCommand("copy");
	area.remove();
}

document.addEventListener("click", async (event) => {
	const button = event.target.closest("button.copy");
	if (!button) return;
	try {
		await copyText(button.dataset.copy);
		button.textContent = "Copied";
	} catch {
		button.textContent = "Failed";
	}
	setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

// The mirror sends the live parts of this page when they change, and all of them when a stream begins.
// A part with a button or link that has the focus is replaced when the focus has left it, and one
// with selected text when the selection has. A table keeps the focus and its place.
const parts = new Map();
const shown = new Map();

function isSelected(part) {
	const selection = getSelection();
	return !selection.isCollapsed && part.contains(selection.anchorNode);
}

function showParts() {
	for (const [id, html] of parts) {
		const part = document.getElementById(id);
		const focus = part?.contains(document.activeElement) ? document.activeElement : undefined;
		if (focus && !focus.matches(".wide")) continue;
		if (part && isSelected(part)) continue;
		parts.delete(id);
		if (!part || !part.hasAttribute("data-live") || shown.get(id) === html) continue;
		shown.set(id, html);
		const tables = [...part.querySelectorAll(".wide")];
		const places = tables.map((table) => table.scrollLeft);
		part.innerHTML = html;
		part.querySelectorAll(".wide").forEach((table, i) => {
			table.scrollLeft = places[i] ?? 0;
			if (focus && focus === tables[i]) table.focus({ preventScroll: true });
		});
		showCopyButtons(part);
	}
}

document.addEventListener("focusout", () => setTimeout(showParts));
document.addEventListener("selectionchange", () => { if (parts.size && getSelection().isCollapsed) showParts(); });

function tell(text) {
	const stale = document.getElementById("stale");
	if (stale && stale.textContent !== text) stale.textContent = text;
}

// A mirror that has no place for one more page, or is away, is asked again after so long.
const pauseAfterRefusal = 15000;
let stream, pause, lost;

function unfollow() {
	stream?.close();
	clearTimeout(pause);
	clearTimeout(lost);
	stream = lost = undefined;
}

function follow() {
	unfollow();
	stream = new EventSource(location.href);
	stream.addEventListener("open", () => {
		clearTimeout(lost);
		lost = undefined;
		tell("");
	});
	stream.addEventListener("part", (event) => {
		const { id, html } = JSON.parse(event.data);
		parts.set(id, html);
		showParts();
	});
	stream.addEventListener("error", () => {
		// A stream ends each minute, and the browser asks for the next one by itself.
		if (stream.readyState === EventSource.CLOSED) {
			unfollow();
			reload();
			pause = setTimeout(follow, pauseAfterRefusal);
		} else {
			const since = new Date().toLocaleTimeString();
			lost ??= setTimeout(() => tell("The mirror does not answer. The figures are from " + since + "."), 5000);
		}
	});
}

// A page that may not follow the mirror is loaded anew now and then.
async function reload() {
	try {
		const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
		if (!answer.ok) throw new Error(answer.statusText);
		const page = new DOMParser().parseFromString(await answer.text(), "text/html");
		for (const part of page.querySelectorAll("[data-live]")) parts.set(part.id, part.innerHTML);
		showParts();
		tell("Many pages follow the mirror, so this one is only updated every 15 seconds.");
	} catch {
		tell("The mirror does not answer. The figures may be old.");
	}
}

showCopyButtons(document);
if (document.querySelector("[data-live]")) {
	// A hidden page takes no place of others.
	document.addEventListener("visibilitychange", () => { if (document.hidden) unfollow(); else follow(); });
	addEventListener("pagehide", unfollow);
	addEventListener("pageshow", (event) => { if (event.persisted && !document.hidden) follow(); });
	if (!document.hidden) follow();
}
