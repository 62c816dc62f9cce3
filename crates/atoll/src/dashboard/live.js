// Replaces the content every two seconds while the page is looked at. Without this script, the page reloads itself.
"use strict";
const every = 2000;
async function refresh() {
  if (document.visibilityState !== "visible") return;
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(8000) });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["main", "footer"]) {
      const now = document.querySelector(part), next = fresh.querySelector(part);
      if (!now || !next || now.innerHTML === next.innerHTML) continue;
      // A link that has the focus keeps it.
      const focus = now.contains(document.activeElement) && document.activeElement.getAttribute("href");
      now.replaceChildren(...next.childNodes);
      if (focus) now.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    }
    document.body.classList.toggle("away", !answer.ok);
  } catch {
    document.body.classList.add("away");
  }
}
(async () => {
  for (;;) {
    await new Promise(done => setTimeout(done, every));
    await refresh();
  }
})();
document.addEventListener("visibilitychange", refresh);
