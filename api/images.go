package api

// Routes (all POST) for images that go from one place to another. Errors are as
// on Docker's routes for images.
const (
	// ImagesCopyPath copies between registries: the body is an ImageCopy, the answer
	// a stream of Docker's progress messages.
	ImagesCopyPath = "/hull/v1/images/copy"
	// ImagesLayersPath lists the layers of images: ImageNames -> ImageLayers.
	ImagesLayersPath = "/hull/v1/images/layers"
	// ImagesLackingPath says which layers are not here: Digests -> Digests.
	ImagesLackingPath = "/hull/v1/images/lacking"
	// ImagesArchivePath answers an ImageArchive with the tar that Docker's "load" reads,
	// without the layers that are to be left out.
	ImagesArchivePath = "/hull/v1/images/archive"
)

// ImageCopy names what to copy where. The credentials are Docker's X-Registry-Auth
// of the two registries; "" = those of the engine.
type ImageCopy struct {
	Source, Target         string
	Platform               string // "" = all of the image's
	SourceAuth, TargetAuth string
}

// ImageNames are images of this engine.
type ImageNames struct{ Names, Platforms []string }

// ImageLayers are layers as they are stored.
type ImageLayers struct{ Layers []ImageLayer }

// ImageLayer is one of them.
type ImageLayer struct {
	Digest string
	Size   int64 // bytes
}

// Digests is a list of layers.
type Digests struct{ Digests []string }

// ImageArchive says what an archive is to hold.
type ImageArchive struct {
	Names, Platforms []string
	Since            []string // images whose layers are left out
	Omit             []string // digests of layers that are left out
}
