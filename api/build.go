package api

// BuildHeader is a header of Docker's POST /build with what its query cannot say:
// a BuildOptions as JSON in base64.
const BuildHeader = "X-Hull-Build"

// BuildOptions are hull's own.
type BuildOptions struct {
	Lock     *BuildLock // fail when what the image is made from is not this
	OnlyFind bool       // make no image: answer with a BuildLock
}

// BuildLockID is the id of the message in the answer whose aux is a BuildLock.
const BuildLockID = "hull.lock"

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

// ImagesComparePath (POST) compares two images: ImagePair -> ImageDifference.
const ImagesComparePath = "/hull/v1/images/compare"

// ImagePair names two images.
type ImagePair struct{ A, B string }

// ImageDifference is the first difference between two images, "" = none.
type ImageDifference struct{ Difference string }
