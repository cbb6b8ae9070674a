// A bare WebSocket server that sends the lines of a file to every socket that says anything, as fast as each takes them.
// Prints its port; ends with its standard input.
const fs = require("fs");
const { WebSocketServer } = require("ws");

const PAGE = 100;
const HIGH_WATER_BYTES = 64 * 1024;
const lines = fs.readFileSync(process.argv[2], "utf8").split("\n");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });

function serve(socket, total) {
  let sent = 0;
  const page = () => {
    for (const end = Math.min(total, sent + PAGE); sent < end; sent += 1) {
      socket.send(lines[sent % lines.length]);
    }
    if (sent === total || socket.readyState !== socket.OPEN) return;
    // The next page when this one has left for the kernel, as the API waits for its own.
    if (socket.bufferedAmount > HIGH_WATER_BYTES) socket._socket.once("drain", page);
    else setImmediate(page);
  };
  page();
}

server.on("connection", (socket) => socket.on("message", (text) => serve(socket, Number(text))));
server.on("listening", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
