/* Paper is light, and cannot be unfolded: dark colours become light ones, folded findings open. */
(() => {
  const page = document.documentElement;
  let theme = null, opened = [];
  const change = (printing) => {
    if (printing && theme === null) {
      theme = page.dataset.theme;
      page.dataset.theme = "light";
      opened = [...document.querySelectorAll(".cell_output details:not([open])")];
      for (const folded of opened) folded.open = true;
    } else if (!printing && theme !== null) {
      page.dataset.theme = theme;
      theme = null;
      for (const folded of opened) folded.open = false;
    }
  };
  window.addEventListener("beforeprint", () => change(true));
  window.addEventListener("afterprint", () => change(false));
  window.matchMedia("print").addEventListener("change", (media) => change(media.matches));
})();
