// Asking again and again: one question at a time, and none while nobody can see the page.

/** Call `look` now, and again so long after each answer; return what ends that. */
export function every(ms, look) {
  let isOver = false;
  let timer = 0;
  async function turn() {
    await look().catch(() => {});
    if (!isOver) timer = setTimeout(next, ms);
  }
  function next() {
    if (document.hidden) timer = setTimeout(next, ms);
    else turn();
  }
  turn();
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}
