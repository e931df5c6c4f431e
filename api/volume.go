package api

import "net/url"

// VolumePath is hull's own route for a volume's verb:
//
//	archive   GET, HEAD, PUT ?path=   its files as a tar, as Docker's route for a container's
//	rename    POST ?name=             errors: 404 no such volume, 409 in use or name taken
//	clone     POST ?name=             answers with the new volume
//	snapshot  POST ?name=             as clone; without a name the engine chooses one
func VolumePath(name, verb string) string {
	return "/hull/v1/volumes/" + url.PathEscape(name) + "/" + verb
}
