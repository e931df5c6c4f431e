package docker

import (
	"net/http"

	"hull/api"
)

// routes is the whole API on one screen. What is not here is "page not found",
// whatever the method, as with moby.
func (s *Server) routes() {
	p := s.parts
	sys := &systemAPI{cfg: s.cfg, parts: p}
	con := &containerAPI{engine: p.Containers, images: p.Images, maxBody: s.cfg.MaxBody}
	run := &runAPI{containerAPI: con}
	exe := &execAPI{engine: p.Containers, maxBody: s.cfg.MaxBody}
	img := &imageAPI{images: p.Images, engine: p.Containers}
	vol := &volumeAPI{volumes: p.Volumes, files: p.Files, maxBody: s.cfg.MaxBody}
	ker := &kernelAPI{kernels: p.Kernels}
	sec := &secretAPI{secrets: p.Secrets, maxBody: s.cfg.MaxBody}
	net := &networkAPI{networks: p.Networks, engine: p.Containers, maxBody: s.cfg.MaxBody}

	bld := &buildAPI{builder: p.Builder, caches: p.Caches}

	s.handle("/", func(http.ResponseWriter, *http.Request) error { return notFound("page not found") })

	s.handle("GET /_ping", sys.ping) // and HEAD
	s.handle("GET /version", sys.version)
	s.handle("GET /info", sys.info)
	s.handle("GET /hull/v1/info", sys.hullInfo)
	s.handle("GET /hull/v1/doctor", sys.doctor)
	s.handle("PUT /hull/v1/vm/kernel", ker.install)
	s.handle("DELETE /hull/v1/vm/kernel", ker.remove)
	s.handle("POST "+api.RunPath, run.run)
	s.handle("POST "+api.RunStreamsPath, run.streams)
	s.handle("POST /hull/v1/containers/{id}/ports", con.ports)
	s.handle("POST /hull/v1/containers/{id}/takeover", con.takeOver)
	s.handle("GET /events", sys.events)
	s.handle("GET /system/df", sys.diskUsage)
	s.handle("POST /auth", sys.auth)

	s.handle("GET /containers/json", con.list)
	s.handle("POST /containers/create", con.create)
	s.handle("POST /containers/prune", con.prune)
	s.handle("GET /containers/{id}/json", con.inspect)
	s.handle("GET /containers/{id}/top", con.top)
	s.handle("GET /containers/{id}/logs", con.logs)
	s.handle("GET /containers/{id}/changes", con.changes)
	s.handle("GET /containers/{id}/export", con.export)
	s.handle("GET /containers/{id}/stats", con.stats)
	s.handle("POST /containers/{id}/resize", con.resize)
	s.handle("POST /containers/{id}/start", con.start)
	s.handle("POST /containers/{id}/stop", con.stop)
	s.handle("POST /containers/{id}/restart", con.restart)
	s.handle("POST /containers/{id}/kill", con.kill)
	s.handle("POST /containers/{id}/update", con.update)
	s.handle("POST /containers/{id}/rename", con.rename)
	s.handle("POST /containers/{id}/pause", con.pause)
	s.handle("POST /containers/{id}/unpause", con.unpause)
	s.handle("POST /containers/{id}/attach", con.attach)
	s.handle("GET /containers/{id}/attach/ws", con.attachWS)
	s.handle("POST /containers/{id}/wait", con.wait)
	s.handle("DELETE /containers/{id}", con.remove)
	s.handle("HEAD /containers/{id}/archive", con.statArchive)
	s.handle("GET /containers/{id}/archive", con.getArchive)
	s.handle("PUT /containers/{id}/archive", con.putArchive)
	s.handle("GET /containers/{id}/checkpoints", emptyList)
	s.handle("POST /containers/{id}/checkpoints", noCheckpoint)
	s.handle("DELETE /containers/{id}/checkpoints/{checkpoint}", noCheckpoint)
	s.handle("POST /commit", con.commit)

	s.handle("POST /containers/{id}/exec", exe.create)
	s.handle("POST /exec/{id}/start", exe.start)
	s.handle("POST /exec/{id}/resize", exe.resize)
	s.handle("GET /exec/{id}/json", exe.inspect)

	type named = map[string]func(w http.ResponseWriter, r *http.Request, name string) error
	s.handle("GET /images/json", img.list)
	s.handle("GET /images/search", img.search)
	s.handle("GET /images/get", img.saveMany)
	s.handle("POST /images/create", img.create)
	s.handle("POST /images/load", img.load)
	s.handle("POST /images/prune", img.prune)
	s.handle("GET /images/{rest...}", img.byName(named{
		"json": img.inspect, "history": img.history, "get": img.save, "attestations": img.attestations,
	}))
	s.handle("POST /images/{rest...}", img.byName(named{"push": img.push, "tag": img.tag}))
	s.handle("DELETE /images/{rest...}", img.remove)
	s.handle("GET /distribution/{rest...}", img.byName(named{"json": img.distribution}))

	s.handle("POST /hull/v1/images/copy", img.copyImage)
	s.handle("POST /hull/v1/images/layers", img.layers)
	s.handle("POST /hull/v1/images/lacking", img.lacking)
	s.handle("POST /hull/v1/images/archive", img.archive)
	s.handle("POST /hull/v1/images/compare", img.compare)
	s.handle("POST /hull/v1/images/signable", img.signatures(Images.Signable))
	s.handle("POST /hull/v1/images/signatures", img.signatures(Images.Signatures))
	s.handle("POST /hull/v1/images/sign", img.sign)

	s.handle("GET /volumes", vol.list)
	s.handle("POST /volumes/create", vol.create)
	s.handle("POST /volumes/prune", vol.prune)
	s.handle("GET /volumes/{name...}", vol.inspect)
	s.handle("PUT /volumes/{name...}", notManager) // cluster volumes only
	s.handle("DELETE /volumes/{name...}", vol.remove)
	s.handle("POST /hull/v1/volumes/{name}/rename", vol.verb(Volumes.Rename))
	s.handle("POST /hull/v1/volumes/{name}/clone", vol.verb(Volumes.Clone))
	s.handle("POST /hull/v1/volumes/{name}/snapshot", vol.verb(Volumes.Snapshot))
	s.handle("HEAD /hull/v1/volumes/{name}/archive", vol.statArchive)
	s.handle("GET /hull/v1/volumes/{name}/archive", vol.getArchive)
	s.handle("PUT /hull/v1/volumes/{name}/archive", vol.putArchive)

	s.handle("GET /hull/v1/secrets", sec.list)
	s.handle("POST /hull/v1/secrets", sec.create)
	s.handle("GET /hull/v1/secrets/{name}", sec.inspect)
	s.handle("DELETE /hull/v1/secrets/{name}", sec.remove)

	s.handle("GET /networks", net.list)
	s.handle("GET /networks/{$}", net.list)
	s.handle("POST /networks/create", net.create)
	s.handle("POST /networks/prune", net.prune)
	s.handle("GET /networks/{id...}", net.inspect)
	s.handle("DELETE /networks/{id...}", net.remove)
	s.handle("POST /networks/{id}/connect", net.connect)
	s.handle("POST /networks/{id}/disconnect", net.disconnect)

	s.handle("POST /build", s.builds(bld.build))
	s.handle("POST /build/prune", s.builds(bld.prune))
	s.handle("POST /build/cancel", s.builds(bld.cancel))
	s.handle("POST /session", s.builds(bld.session))
	s.handle("POST /grpc", s.builds(bld.grpc))
	s.handle("GET /hull/v1/builder/cache", s.builds(bld.cacheMounts))
	s.handle("GET /hull/v1/builder/cache/archive", s.builds(bld.exportCacheMount))
	s.handle("PUT /hull/v1/builder/cache/archive", s.builds(bld.importCacheMount))

	s.swarmRoutes()
}

// swarmRoutes answer as an engine outside a swarm.
func (s *Server) swarmRoutes() {
	for _, pattern := range []string{
		"GET /swarm", "GET /swarm/unlockkey", "POST /swarm/update", "POST /swarm/unlock",
		"GET /nodes", "GET /nodes/{id}", "POST /nodes/{id}/update", "DELETE /nodes/{id}",
		"GET /services", "POST /services/create", "GET /services/{id}", "POST /services/{id}/update",
		"DELETE /services/{id}", "GET /services/{id}/logs",
		"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs",
		"GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "POST /secrets/{id}/update", "DELETE /secrets/{id}",
		"GET /configs", "POST /configs/create", "GET /configs/{id}", "POST /configs/{id}/update", "DELETE /configs/{id}",
	} {
		s.handle(pattern, notManager)
	}
	s.handle("POST /swarm/init", noSwarm)
	s.handle("POST /swarm/join", noSwarm)
	s.handle("POST /swarm/leave", notInSwarm)

	s.handle("GET /plugins", emptyList)
	s.handle("GET /plugins/privileges", noPlugins)
	s.handle("POST /plugins/pull", readFirst(s.cfg.MaxBody, noPlugins))
	s.handle("POST /plugins/create", noPlugins)
	s.handle("GET /plugins/{name}/json", noPlugin)
	s.handle("DELETE /plugins/{name}", noPlugin)
	for _, verb := range []string{"enable", "disable", "push"} {
		s.handle("POST /plugins/{name}/"+verb, noPlugin)
	}
	for _, verb := range []string{"upgrade", "set"} {
		s.handle("POST /plugins/{name}/"+verb, readFirst(s.cfg.MaxBody, noPlugin))
	}
}

// builds answers that there is no builder where there is none.
func (s *Server) builds(h handler) handler {
	if s.parts.Builder == nil {
		return noBuild
	}
	return h
}
