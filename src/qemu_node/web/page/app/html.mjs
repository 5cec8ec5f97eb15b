// Preact, htm and signals, as all other modules use them: the only one that names the vendored files.
import { h, render, Component } from '../vendor/preact/dist/preact.mjs';
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from '../vendor/preact/hooks/dist/hooks.mjs';
import htm from '../vendor/htm/dist/htm.mjs';
import { batch, computed, effect, signal } from '../vendor/signals/dist/signals-core.mjs';

export const html = htm.bind(h);
export { batch, Component, computed, effect, render, signal, useEffect, useLayoutEffect, useMemo, useRef, useState };

/** Return a signal's value, and draw the component anew when it changes. */
export function useSignal(source) {
  const [, redraw] = useState(0);
  const shown = source.peek();
  const seen = useRef(shown);
  seen.current = shown;
  useLayoutEffect(
    () => effect(() => {
      // Also a change between the drawing and this subscription.
      if (source.value !== seen.current) redraw((n) => n + 1);
    }),
    [source],
  );
  return shown;
}

/** Draws its children anew only if one of its props is another value. */
export class Pure extends Component {
  shouldComponentUpdate(next) {
    const now = this.props;
    return Object.keys(next).some((name) => name !== 'children' && next[name] !== now[name]);
  }
}
