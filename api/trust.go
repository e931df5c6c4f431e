package api

// Routes (all POST) for signatures of images. Keys never come to the engine: who
// signs asks what is to be signed, signs it, and gives the engine the signature.
const (
	// ImagesSignablePath says what a signature is to be of: ImageSigning -> ImageSignatures.
	ImagesSignablePath = "/hull/v1/images/signable"
	// ImagesSignaturesPath lists signatures and what the trust policy says of them:
	// ImageSigning -> ImageSignatures.
	ImagesSignaturesPath = "/hull/v1/images/signatures"
	// ImagesSignPath takes a signature: ImageSigning.
	ImagesSignPath = "/hull/v1/images/sign"
)

// ImageSigning names an image, and brings a signature of it.
type ImageSigning struct {
	Image     string
	Auth      string          // Docker's X-Registry-Auth; "" = the engine's own
	Registry  bool            // in the registry, whether the image is here or not
	Document  *SignedDocument `json:",omitempty"`
	Signature *ImageSignature `json:",omitempty"`
}

// SignedDocument is a manifest or an index.
type SignedDocument struct {
	MediaType, Digest string
	Size              int64 // bytes
}

// ImageSignature is what somebody has signed, and how.
type ImageSignature struct {
	Format      string            // "cosign" or "notation"
	MediaType   string            // of Payload
	Payload     []byte            // cosign: the signed document; notation: the envelope
	Value       string            `json:",omitempty"` // cosign: the signature itself, base64
	Annotations map[string]string `json:",omitempty"` // notation: of its manifest
}

// ImageSignatures is an image as far as signatures go.
type ImageSignatures struct {
	Repository string // full name
	Local      bool   // the image is here
	Documents  []SignedDocument
	Signatures []ImageSignature `json:",omitempty"`
	Accepted   string           `json:",omitempty"` // why the trust policy accepts it; "" = there is none, or it does not
	Refused    string           `json:",omitempty"` // why it does not
}
