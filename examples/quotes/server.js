// GET /?author=... answers with the quotes of an author, or all, as JSON.
const http = require('http');
const quotes = require('./quotes');

http.createServer((request, response) => {
  const author = new URL(request.url, 'http://host').searchParams.get('author');
  const found = quotes.filter((q) => !author || q.author === author);
  response.writeHead(found.length ? 200 : 404, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(found) + '\n');
}).listen(3000);

process.on('SIGTERM', () => process.exit(0));
