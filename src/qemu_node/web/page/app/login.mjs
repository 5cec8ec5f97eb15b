// The form of whoever is not logged in.
import { html, useSignal, useState } from './html.mjs';
import { Notice } from './parts.mjs';
import { logIn, logInThrough, notice, ways } from './session.mjs';

function Secret({ way, label, hint, other }) {
  const [value, setValue] = useState('');
  const [isBusy, setBusy] = useState(false);
  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    if (!(await logIn({ [way]: value.trim() }))) setBusy(false);
    setValue('');
  }
  return html`<form onSubmit=${submit}>
    <label for=${`login-${way}`}>${label}</label>
    <input id=${`login-${way}`} type="password" autocomplete=${way === 'password' ? 'current-password' : 'off'} required
      autofocus spellcheck="false" value=${value} onInput=${(event) => setValue(event.currentTarget.value)} />
    <small>${hint}</small>
    <button class="primary" disabled=${isBusy || !value}>${isBusy ? 'Logging in …' : 'Log in'}</button>
    ${other}
  </form>`;
}

export function Login() {
  const problem = useSignal(notice);
  const { ways: open, oidc_methods: methods = [], why } = useSignal(ways);
  return html`<main class="login"><div class="panel">
    <h1>Nomad QEMU node</h1>
    <p class="dim">${location.hostname}</p>
    <${Notice} error=${problem} />
    ${why ? html`<${Notice} error=${{ message: why }} />` : null}
    ${open.includes('token') ? html`<${Secret} way="token" label="Nomad token"
      hint="A token's secret ID. It goes to this node only, and stays in its memory until you log out." />` : null}
    ${open.includes('password') ? html`<${Secret} way="password" label="Password" hint="As set in this node's configuration." />` : null}
    ${methods.map((method) => html`<button key=${method} type="button" onClick=${() => logInThrough(method)}>Log in with ${method}</button>`)}
    ${open.includes('open') ? html`<button type="button" class="primary" onClick=${() => logIn({ open: true })}>Enter</button>` : null}
    ${open.includes('link') && !open.includes('token') ? html`<p>Use the link that <code>qemu-node run</code> has printed. It works once.</p>` : null}
  </div></main>`;
}
