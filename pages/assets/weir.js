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

// The live parts of a page are replaced by those of the same page as it is now.
async function refreshLiveParts() {
	const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
	if (!answer.ok) return;
	const page = new DOMParser().parseFromString(await answer.text(), "text/html");
	for (const part of document.querySelectorAll("[data-live]")) {
		const next = page.getElementById(part.id);
		if (!next || next.innerHTML === part.dataset.seen || part.contains(document.activeElement)) continue;
		part.dataset.seen = next.innerHTML;
		part.replaceChildren(...next.childNodes);
		showCopyButtons(part);
	}
}

showCopyButtons(document);
if (document.querySelector("[data-live]")) {
	const tick = async () => {
		if (!document.hidden) {
			try { await refreshLiveParts(); } catch { /* the mirror is away: the next try may work */ }
		}
		setTimeout(tick, 1000);
	};
	setTimeout(tick, 1000);
}
