// Requests to /api/v1. Owns the errors' form; does not own what follows from a session that has ended.

export const API = '/api/v1';
// A network that goes without a word leaves a request waiting for as long as the browser likes.
const ANSWER_MS = 30_000;

/** An answer that says no, or none at all: `status` is 0 then. */
export class ApiError extends Error {
  constructor(status, code, message, hint = '') {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

let onLoggedOut = () => {};

/** Have `call` called whenever an answer says that nobody is logged in. */
export function whenLoggedOut(call) {
  onLoggedOut = call;
}

/** Send a request; return the response, which is a good one. */
export async function send(method, path, body, { headers = {}, ...options } = {}) {
  const init = { method, headers: { ...headers }, credentials: 'same-origin', cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS), ...options };
  if (method !== 'GET') init.headers['X-QN'] = '1';
  if (body !== undefined) {
    init.headers['Content-Type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(API + path, init);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'unreachable', 'The console does not answer.', 'Is its node up, and reached from here?');
  }
  if (response.ok || response.status === 304) return response;
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's answer.
  }
  const error = new ApiError(
    response.status,
    problem.error ?? `http-${response.status}`,
    problem.message ?? `The console answered with status ${response.status}.`,
    problem.hint ?? '',
  );
  if (error.status === 401 && path !== '/login') onLoggedOut(error);
  throw error;
}

/** Return the JSON of GET `path`. */
export async function get(path, options) {
  return (await send('GET', path, undefined, options)).json();
}

/** Make a change; return the answer's JSON, null if it has none. */
export async function post(path, body) {
  const response = await send('POST', path, body);
  return response.status === 204 ? null : response.json();
}

/** Return the path of a VM's own routes. */
export function vmPath(vmId, rest = '') {
  return `/vms/${encodeURIComponent(vmId)}${rest}`;
}
