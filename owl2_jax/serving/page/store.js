// Conversations in the browser's own database, so that a reload loses none.
//
// Each tab has its own; the newest few are kept. Where the browser keeps nothing
// (a private window, storage forbidden), everything works until the tab is left.

import { understood, withoutImages } from "./conversation.js";

const NAME = "owl2";
const TABLE = "conversations";
const TIME = "time"; // of the last change, in milliseconds
const KEPT = 5;
const TAB = "owl2-conversation"; // of the session: which one this tab shows
const PATIENCE = 3000; // milliseconds; a database that another tab blocks is no database

let database = null;

// Opens the database; another one of its name is thrown away.
export async function open() {
  database = (await opened().catch(() => null)) ?? (await renewed().catch(() => null));
}

async function renewed() {
  await soon(indexedDB.deleteDatabase(NAME));
  return opened();
}

async function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () =>
    request.result.createObjectStore(TABLE, { keyPath: "id" }).createIndex(TIME, TIME);
  const found = await soon(request);
  found.onversionchange = () => {
    found.close();
    database = null;
  };
  const table = found.objectStoreNames.contains(TABLE) && found.transaction(TABLE).objectStore(TABLE);
  if (table && table.keyPath === "id" && table.indexNames.contains(TIME)) return found;
  found.close();
  return null;
}

function soon(request) {
  return new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
    setTimeout(() => fail(new Error("the database does not answer")), PATIENCE);
  });
}

function newId() {
  return `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}

// The conversation of this tab, as it was before a reload; an empty one in a new tab.
export async function mine() {
  const id = quietly(() => sessionStorage.getItem(TAB));
  return (id && (await read(id))) || fresh();
}

export function fresh() {
  const id = newId();
  quietly(() => sessionStorage.setItem(TAB, id));
  return { id, turns: [], draft: { text: "", images: [] } };
}

async function read(id) {
  if (!database) return null;
  try {
    const value = await soon(database.transaction(TABLE).objectStore(TABLE).get(id));
    const found = understood(value);
    if (value && !found) await remove([id]);
    return found;
  } catch {
    return null;
  }
}

// The newest stored conversation, as a new one of this tab; null when there is none.
export async function latest() {
  for (const id of await newestFirst()) {
    const found = await read(id);
    if (found?.turns.length) return found;
  }
  return null;
}

// Takes over a stored conversation; the other tab's own stays as it is.
export function adopt(found) {
  return { ...found, id: fresh().id };
}

// The ids alone: the images of all conversations would be much to read.
function newestFirst() {
  return new Promise((done) => {
    const ids = [];
    try {
      const request = database.transaction(TABLE).objectStore(TABLE).index(TIME).openKeyCursor(null, "prev");
      request.onerror = () => done(ids);
      request.onsuccess = () => {
        if (!request.result) return done(ids);
        ids.push(request.result.primaryKey);
        return request.result.continue();
      };
    } catch {
      done(ids);
    }
  });
}

// Keeps a conversation: "whole", "without images" where there is no room for them, or "not at all".
export async function save(conversation) {
  if (!database) return "not at all";
  if (!conversation.turns.length && !conversation.draft.text && !conversation.draft.images.length) {
    await remove([conversation.id]);
    return "whole";
  }
  for (const [value, how] of [[conversation, "whole"], [withoutImages(conversation), "without images"]]) {
    if (await put({ ...value, time: Date.now() })) {
      await remove((await newestFirst()).slice(KEPT));
      return how;
    }
  }
  return "not at all";
}

// Whether a value could be written; a full disk shows only when the transaction ends.
function put(value) {
  return new Promise((done) => {
    try {
      const transaction = database.transaction(TABLE, "readwrite");
      transaction.oncomplete = () => done(true);
      transaction.onabort = transaction.onerror = () => done(false);
      transaction.objectStore(TABLE).put(value);
    } catch {
      done(false);
    }
  });
}

async function remove(ids) {
  if (!database || !ids.length) return;
  try {
    const table = database.transaction(TABLE, "readwrite").objectStore(TABLE);
    await Promise.all(ids.map((id) => soon(table.delete(id))));
  } catch {
    // What cannot be deleted is overwritten or left out later.
  }
}

// Deletes every conversation of this browser; whether it could.
export async function clear() {
  try {
    await soon(database.transaction(TABLE, "readwrite").objectStore(TABLE).clear());
    return true;
  } catch {
    return database === null;
  }
}

function quietly(action) {
  try {
    return action();
  } catch {
    return null;
  }
}
