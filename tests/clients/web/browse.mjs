// Opens pages in headless Chromium, and prints what they log. Started by main.sh.
//
// Arguments are triples: who looks at it (`person`, who has a certificate, or `stranger`), a page's address, and the
// function of page.mjs that it shall run.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const server = process.env.LONGSHORE_SERVER;
const file = (name) => join(process.env.LONGSHORE_CREDENTIALS, name);
const homes = mkdtempSync(join(tmpdir(), "longshore-browser-"));
const run = (program, ...words) => execFileSync(program, words, { stdio: ["ignore", "ignore", "inherit"] });

/** Makes a home whose browser knows the installation's root, and the certificate of a person unless it is a stranger's. */
function makeHome(who) {
  const home = join(homes, who);
  const store = join(home, ".pki/nssdb");
  mkdirSync(store, { recursive: true });
  run("certutil", "-d", `sql:${store}`, "-N", "--empty-password");
  run("certutil", "-d", `sql:${store}`, "-A", "-n", "root", "-t", "C,,", "-i", file("root.crt"));
  if (who === "person") {
    const [pair, bundle] = [["-in", file("client.crt"), "-inkey", file("client.key")], join(home, "longshore.p12")];
    run("openssl", "pkcs12", "-export", ...pair, "-name", "longshore", "-out", bundle, "-passout", "pass:");
    run("pk12util", "-d", `sql:${store}`, "-i", bundle, "-W", "");
  }
  return home;
}

/** Lets browsers take the one certificate that fits without asking a person who is not there. */
function chooseCertificates() {
  const policies = "/etc/chromium/policies/managed";
  mkdirSync(policies, { recursive: true });
  const choice = JSON.stringify({ pattern: `https://${server}`, filter: {} });
  writeFileSync(join(policies, "longshore.json"), JSON.stringify({ AutoSelectCertificateForUrls: [choice] }));
}

async function open(who) {
  const home = makeHome(who);
  const env = { ...process.env, HOME: home };
  return chromium.launchPersistentContext(join(home, "profile"), { executablePath: "/usr/bin/chromium", env });
}

const browsers = new Map();
try {
  chooseCertificates();
  for (let words = process.argv.slice(2); words.length; words = words.slice(3)) {
    const [who, address, play] = words;
    if (!browsers.has(who)) browsers.set(who, await open(who));
    const page = await browsers.get(who).newPage();
    page.on("console", (message) => (message.type() === "log" ? console.log : console.error)(message.text()));
    await page.goto(address);
    await page.evaluate(([play, server]) => globalThis[play](server), [play, server]);
    await page.close();
  }
} finally {
  for (const browser of browsers.values()) await browser.close();
  rmSync(homes, { recursive: true });
}
