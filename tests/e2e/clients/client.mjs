// The Node half of the tests' clients: the same commands and answers as client.py.

import { createInterface } from 'node:readline';
import { chromium } from 'playwright';

const say = answer => process.stdout.write(JSON.stringify(answer) + '\n');
const [url, sessionId, options = '{}'] = process.argv.slice(2);
const { exposeNetwork, launch } = JSON.parse(options);
const headers = { 'X-Session-ID': sessionId };
if (launch) headers['x-playwright-launch-options'] = JSON.stringify(launch);

let browser, page;
try {
  browser = await chromium.connect(url, { headers, exposeNetwork, timeout: 120_000 });
  page = await browser.newPage();
} catch (error) {
  say({ error: String(error.message) });
  process.exit(1);
}
say({ connected: browser.version() });

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    if ('goto' in command) {
      await page.goto(command.goto);
      say({ result: 'text' in command ? await page.innerText('body') : await page.title() });
    } else if ('evaluate' in command) {
      say({ result: await page.evaluate(command.evaluate) ?? null });
    } else if ('close' in command) {
      await browser.close();
      say({ result: null });
    }
  } catch (error) {
    say({ error: String(error.message) });
  }
}
process.exit(0);
