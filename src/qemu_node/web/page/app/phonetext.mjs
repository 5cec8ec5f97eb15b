// The hidden field that has a phone show its keyboard. It is never empty: a phone tells of no backspace in
// an empty field. What has changed in it is what was typed.

export const FILL = '_'.repeat(24);

/** Return what somebody did to FILL: how many characters he deleted, and which he typed. Pure. */
export function changeOf(text) {
  let same = 0;
  while (same < FILL.length && text[same] === FILL[same]) same += 1;
  return { deleted: FILL.length - same, typed: text.slice(same) };
}

/** Have the field as it was, with the cursor at its end. */
export function refill(field) {
  field.value = FILL;
  field.setSelectionRange(FILL.length, FILL.length);
}
