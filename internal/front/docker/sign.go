package docker

import (
	"context"
	"net/http"

	"hull/api"
	"hull/internal/hull"
)

// signing reads an image and what was signed of it.
func signing(r *http.Request) (hull.SignRequest, error) {
	var in api.ImageSigning
	if err := readJSON(r, maxShare, false, &in); err != nil {
		return hull.SignRequest{}, err
	}
	out := hull.SignRequest{Ref: in.Image, Auth: decodeAuth(in.Auth), Push: in.Registry}
	if in.Document != nil {
		out.Document = hull.SignedDocument(*in.Document)
	}
	if in.Signature != nil {
		out.Signature = hull.Signature(*in.Signature)
	}
	return out, nil
}

// signatures is POST /hull/v1/images/signable and /hull/v1/images/signatures.
func (a *imageAPI) signatures(ask func(Images, context.Context, hull.SignRequest) (hull.Signable, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		in, err := signing(r)
		if err != nil {
			return err
		}
		got, err := ask(a.images, r.Context(), in)
		if err != nil {
			return err
		}
		out := api.ImageSignatures{Repository: got.Repository, Local: got.Local, Accepted: got.Accepted, Refused: got.Refused, Documents: []api.SignedDocument{}}
		for _, d := range got.Documents {
			out.Documents = append(out.Documents, api.SignedDocument(d))
		}
		for _, s := range got.Signatures {
			out.Signatures = append(out.Signatures, api.ImageSignature(s))
		}
		return reply(w, out)
	}
}

// sign is POST /hull/v1/images/sign.
func (a *imageAPI) sign(w http.ResponseWriter, r *http.Request) error {
	in, err := signing(r)
	if err != nil {
		return err
	}
	if err := a.images.Sign(r.Context(), in); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return noContent(w)
}
