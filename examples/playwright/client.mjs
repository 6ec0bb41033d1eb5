// A browser of one's own, through herd:  node client.mjs [SESSION_ID [URL]]

import { chromium } from 'playwright';

const [sessionId = 'user-42', url = 'data:text/html,<title>Hello from Node</title>'] = process.argv.slice(2);

const browser = await chromium.connect('ws://localhost:8080/', { headers: { 'X-Session-ID': sessionId } });
const page = await browser.newPage();
await page.goto(url);
console.log(`${sessionId}: Chromium ${browser.version()} shows “${await page.title()}”`);
await browser.close(); // the session ends here, and its browser with it; so it would if this process were killed
