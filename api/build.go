package api

import "time"

// ContextService is a gRPC service of a client's build session: with its one method,
// ContextSum, hulld asks whether a context is as it was (a ContextSelection as JSON
// in a BytesValue; the answer, a StringValue, is a digest of all that the client
// would say about the selected files).
const (
	ContextService = "hull.build.v1.Context"
	ContextSum     = "Sum"
)

// ContextSelection is a part of a context, in the terms of BuildKit's file transfer.
type ContextSelection struct {
	Name                     string // of the context
	Include, Exclude, Follow []string
}

// BuildLockVersion is the version of lock files that is written.
const BuildLockVersion = 1

// BuildLock is a lock file: everything from outside that an image is made from.
type BuildLock struct {
	Version int           `json:"version"`
	Sources []BuildSource `json:"sources"`
}

// BuildSource is one base image, file of the web, or git commit.
type BuildSource struct {
	URI    string `json:"uri"` // a package URL ("pkg:docker/busybox@latest?...") or a web address
	Digest string `json:"digest"`
}

// CacheMountsPath (GET) lists the cache mounts of builds: []CacheMount. Below it,
// CacheMountArchivePath with ?name= is one as a tar: GET reads it, PUT replaces it.
const (
	CacheMountsPath       = "/hull/v1/builder/cache"
	CacheMountArchivePath = CacheMountsPath + "/archive"
)

// CacheMount is a directory that RUN --mount=type=cache keeps from build to build.
type CacheMount struct {
	Name        string // the mount's id; where none was given, its target
	Description string
	Size        int64 // bytes
	InUse       bool
	CreatedAt   time.Time
	LastUsedAt  *time.Time
}

// ImagesComparePath (POST) compares two images: ImagePair -> ImageDifference.
const ImagesComparePath = "/hull/v1/images/compare"

// ImagePair names two images.
type ImagePair struct{ A, B string }

// ImageDifference is the first difference between two images, "" = none.
type ImageDifference struct{ Difference string }
