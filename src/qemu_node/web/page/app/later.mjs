// A view whose modules are loaded when it is needed.
import { html, useEffect, useState } from './html.mjs';
import { Notice } from './parts.mjs';

export function Later({ load, ...props }) {
  const [view, setView] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    load().then((module) => setView(() => module.default), () => setError({
      message: 'A part of this page could not be loaded.',
      hint: 'If the console was upgraded meanwhile, load the page again.',
    }));
  }, []);
  if (error) return html`<main><${Notice} error=${error}><button type="button" onClick=${() => location.reload()}>Load again</button></${Notice}></main>`;
  return view ? html`<${view} ...${props} />` : html`<main class="loading" aria-busy="true"></main>`;
}
