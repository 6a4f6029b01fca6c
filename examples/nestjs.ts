// A NestJS application with a WebSocket gateway (platform-ws). Compile it as any NestJS application (`experimentalDecorators`,
// `emitDecoratorMetadata`), then:
//
//     PORT=8001 SERVER_ID=server-1 node nestjs.js

import 'reflect-metadata'
import type { IncomingMessage } from 'node:http'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import { type BeforeApplicationShutdown, Injectable, Module, type OnModuleInit } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { WsAdapter } from '@nestjs/platform-ws'
import { type OnGatewayConnection, WebSocketGateway } from '@nestjs/websockets'
import { Redis } from 'ioredis'
import type { WebSocket } from 'ws'

const { PORT = '8001', SERVER_ID, REDIS_URL = 'redis://127.0.0.1:6379' } = process.env

/** The Hocuspocus of this process: inject it where you need a direct connection. */
@Injectable()
export class Collaboration implements OnModuleInit, BeforeApplicationShutdown {
  readonly affinity = new RedisServerAffinity({ redis: new Redis(REDIS_URL, { lazyConnect: true }), serverId: SERVER_ID })
  readonly hocuspocus = new Hocuspocus({ quiet: true, extensions: [this.affinity] }) // and the one that loads and stores

  /** NestJS listens only once this server is a member of the cluster. */
  async onModuleInit() {
    await this.affinity.ready()
  }

  /** Before NestJS closes any socket. */
  async beforeApplicationShutdown() {
    await this.affinity.drain()
    await this.affinity.onDestroy()
  }
}

/** No `@SubscribeMessage`: what WsAdapter hands to those is JSON, and a provider's messages are binary. */
@WebSocketGateway({ path: '/collaboration' })
export class CollaborationGateway implements OnGatewayConnection {
  constructor(private readonly collaboration: Collaboration) {}

  handleConnection(socket: WebSocket, incoming: IncomingMessage) {
    const { affinity } = this.collaboration
    const request = serializeRequest(incoming)
    socket.on('message', (message) => affinity.onSocketMessage(socket, request, message as Buffer))
    socket.on('close', (code, reason) => affinity.onSocketClose(socket, code, Uint8Array.from(reason).buffer))
    affinity.onSocketOpen(socket, request)
  }
}

@Module({ providers: [Collaboration, CollaborationGateway] })
export class AppModule {}

const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] })
app.useWebSocketAdapter(new WsAdapter(app))
app.enableShutdownHooks() // SIGTERM ends in beforeApplicationShutdown
await app.listen(Number(PORT))
const { port } = app.getHttpServer().address()
console.log(`${app.get(Collaboration).affinity.serverId} listens on ${port}`)
