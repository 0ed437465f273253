/* Paper is light: a page in dark colours is printed in light ones. */
(() => {
  const page = document.documentElement;
  let theme = null;
  const change = (printing) => {
    if (printing && theme === null) {
      theme = page.dataset.theme;
      page.dataset.theme = "light";
    } else if (!printing && theme !== null) {
      page.dataset.theme = theme;
      theme = null;
    }
  };
  window.addEventListener("beforeprint", () => change(true));
  window.addEventListener("afterprint", () => change(false));
  window.matchMedia("print").addEventListener("change", (media) => change(media.matches));
})();
