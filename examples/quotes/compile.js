// Turns the list of quotes into a module, so that the server reads no text when it runs.
const fs = require('fs');
const quotes = fs.readFileSync('quotes.txt', 'utf8').trim().split('\n').map((line) => {
  const [, text, author] = line.match(/^(.*) \((.*)\)$/);
  return { text, author };
});
fs.mkdirSync('dist', { recursive: true });
fs.writeFileSync('dist/quotes.js', `module.exports = ${JSON.stringify(quotes)};\n`);
fs.copyFileSync('server.js', 'dist/server.js');
