// Socket.IO 4 as its manual has it: a room for each user and for each group, an ack by callback when it has been emitted.
//
// node socketio.mjs PORT PACKAGES [REDIS-URL]: listens on 127.0.0.1 until it is killed. PACKAGES is the folder in which npm
// installed socket.io; with REDIS-URL every message is also published there, for the servers of a cluster.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, packages, redis] = process.argv.slice(2);
const require = createRequire(packages + "/");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

if (redis) {
  const { createClient } = require("redis");
  const { createAdapter } = require("@socket.io/redis-adapter");
  const publisher = createClient({ url: redis });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

io.use((socket, next) => {
  const user = socket.handshake.auth.user;
  if (typeof user !== "string") return next(new Error("who?"));
  socket.data.user = user;
  next();
});

io.on("connection", (socket) => {
  const user = socket.data.user;
  socket.conn.request = null; // its manual's advice on memory
  socket.join("u:" + user);
  socket.on("join", (group, ack) => {
    socket.join("g:" + group);
    ack();
  });
  socket.on("dm", (to, body, ack) => {
    io.to("u:" + to).emit("dm", user, body);
    ack();
  });
  socket.on("group", (group, body, ack) => {
    socket.to("g:" + group).emit("group", group, user, body);
    ack();
  });
});

http.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
