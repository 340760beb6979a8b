// app.js PORT [SECRET]: an application that receives webhooks; with a secret
// it verifies them by itself.

'use strict';

const crypto = require('crypto');
const http = require('http');

const [port, secret] = process.argv.slice(2);

function verified(body, signature) {
    const mac = crypto.createHmac('sha256', secret).update(body).digest();
    const sent = Buffer.from(signature || '', 'hex');
    return sent.length === mac.length && crypto.timingSafeEqual(sent, mac);
}

const server = http.createServer((req, res) => {
    const pieces = [];
    req.on('data', (piece) => pieces.push(piece));
    req.on('end', () => {
        const echo = req.headers['x-hook-secret'];
        if (echo) {
            res.setHeader('X-Hook-Secret', echo);
        } else if (secret && !verified(Buffer.concat(pieces),
            req.headers['x-hook-signature'])) {
            res.statusCode = 403;
        }
        res.end('ok');
    });
});

server.keepAliveTimeout = 600000;
server.listen(port, '127.0.0.1');
