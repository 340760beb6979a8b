// Opens the page of t/page.t in a browser, and prints what it sees as JSON:
//
//     node page.js CHROMIUM URL READ_ONLY_URL [DIRECTORY]
//
// With a directory, pictures of the light and the dark page go there.

'use strict';

const { chromium } = require('playwright-core');

const [binary, url, readOnly, pictures] = process.argv.slice(2);
const seen = { errors: [], elsewhere: [] };

async function open(browser, where, options) {
    const page = await browser.newPage(options);
    /* Chromium itself tells of an answer 400, which is what confirm() is after */
    page.on('console', m => m.type() === 'error'
        && !/status of 400/.test(m.text()) && seen.errors.push(m.text()));
    page.on('pageerror', e => seen.errors.push(e.message));
    page.on('dialog', d => { seen.errors.push('dialog'); d.dismiss(); });
    page.on('request', r => {
        if (new URL(r.url()).origin !== new URL(where).origin) {
            seen.elsewhere.push(r.url());
        }
    });
    await page.goto(where);
    await page.waitForSelector('#attention tbody tr');
    await page.waitForSelector('#hooks tbody tr');
    return page;
}

const rows = (page, id) => page.$$eval(`#${id} tbody tr`,
    list => list.map(r => r.innerText.replace(/\s+/g, ' ').trim()));

async function search(page, text, state) {
    await page.fill('#q', text);
    await page.selectOption('#health', state || '');
    const answer = page.waitForResponse(r => r.url().includes('hooks?limit=50'));
    await page.press('#q', 'Enter');
    await (await answer).finished();
    await page.waitForTimeout(100);
}

/* what the page says after a secret was given to the pending one */
async function confirm(page, secret) {
    await page.click('#attention button:has-text("Confirm")');
    await page.fill('#secret', secret);
    await page.click('#yes');
    await page.waitForTimeout(500);
    return page.innerText('#outcome');
}

(async () => {
    const browser = await chromium.launch({
        executablePath: binary,
        args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
    });
    const page = await open(browser, url, { colorScheme: 'light' });

    seen.store = await page.innerText('#store');
    seen.attention = await rows(page, 'attention');
    seen.events = await rows(page, 'events');
    seen.first = (await rows(page, 'hooks')).length;
    while (await page.isVisible('#more')) {
        const before = (await rows(page, 'hooks')).length;
        await page.click('#more');
        await page.waitForFunction(
            n => document.querySelectorAll('#hooks tbody tr').length > n, before);
    }
    seen.all = (await rows(page, 'hooks')).length;
    await search(page, 'script');
    seen.html = await rows(page, 'hooks');
    seen.ran = await page.evaluate(() => window.ran === undefined);
    await search(page, 'many/77');
    seen.found = (await rows(page, 'hooks')).length;
    await search(page, 'to-be-revoked');
    seen.before = await rows(page, 'hooks');
    await page.click('#hooks button:has-text("Revoke")');
    seen.question = await page.innerText('#question');
    await page.click('#ask button[value=no]');
    await search(page, 'to-be-revoked');
    seen.kept = await rows(page, 'hooks');
    await page.click('#hooks button:has-text("Revoke")');
    await page.click('#yes');
    await page.waitForTimeout(500);
    await search(page, 'to-be-revoked');
    seen.after = await rows(page, 'hooks');
    if (pictures) {
        await search(page, '');
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: `${pictures}/page-light.png` });
    }
    seen.refused = await confirm(page, 'short');
    seen.other = await confirm(page, 'another-secret-of-printable-text-012345');

    const dark = await open(browser, readOnly,
        { colorScheme: 'dark', viewport: { width: 1280, height: 900 } });
    seen.buttons = await dark.$$eval('table button', list => list.length);
    seen.dark = await dark.evaluate(
        () => getComputedStyle(document.body).backgroundColor);
    if (pictures) await dark.screenshot({ path: `${pictures}/page-dark.png` });

    const narrow = await open(browser, readOnly,
        { viewport: { width: 360, height: 700 } });
    seen.wide = await narrow.evaluate(
        () => document.documentElement.scrollWidth - window.innerWidth);
    seen.names = await narrow.$$eval('#traffic td, #hooks tr:first-child td', list =>
        list.map(td => getComputedStyle(td, '::before').content.replace(/"/g, '')));

    await browser.close();
    console.log(JSON.stringify(seen));
})().catch(e => {
    console.error(e);
    process.exit(1);
});
