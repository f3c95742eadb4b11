// The switch between dark and light: the reader's own choice if there is one, else the system's.
const root = document.documentElement;
const kept = {
  get() { try { return localStorage.getItem("theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("theme", theme); } catch { /* a disk without a store */ } },
};
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const adopt = () => { if (["dark", "light"].includes(kept.get())) root.dataset.theme = kept.get(); };
adopt();
addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  addEventListener("storage", () => { adopt(); show(); }); // chosen on another page
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    kept.set(root.dataset.theme);
    show();
  });
  const menu = document.getElementById("menu");
  if (!menu) return;
  const here = menu.querySelector("[aria-current]");
  if (here) menu.scrollTop = here.offsetTop - menu.clientHeight / 3; // not scrollIntoView: the next Tab would start there
  menu.addEventListener("click", (event) => {
    if (event.target.closest("a") && menu.matches(":popover-open")) menu.hidePopover();
  });
});
