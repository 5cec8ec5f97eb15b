// A view that fills the whole screen. Owns asking the browser for it, and for the keys that it keeps to
// itself otherwise (Esc, Alt+Tab, Win), where it gives them away.
import { html, useEffect, useState } from './html.mjs';
import { Icon } from './icons.mjs';

export function FullScreen({ target, wantsKeys = false, disabled = false }) {
  const [isFull, setFull] = useState(false);
  useEffect(() => {
    const look = () => setFull(document.fullscreenElement === target.current && target.current !== null);
    document.addEventListener('fullscreenchange', look);
    return () => {
      document.removeEventListener('fullscreenchange', look);
      navigator.keyboard?.unlock?.();
    };
  }, []);
  useEffect(() => {
    if (isFull && wantsKeys) navigator.keyboard?.lock?.().catch(() => {});
    else navigator.keyboard?.unlock?.();
  }, [isFull, wantsKeys]);
  // Safari on a phone gives it to videos alone.
  if (!document.fullscreenEnabled) return null;
  const toggle = () => (isFull ? document.exitFullscreen() : target.current.requestFullscreen({ navigationUI: 'hide' })).catch(() => {});
  return html`<button type="button" aria-pressed=${isFull} disabled=${disabled} onClick=${toggle}><${Icon} name="full" />${isFull ? 'Leave full screen' : 'Full screen'}</button>`;
}
