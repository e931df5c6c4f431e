package build

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"hull/api"
)

// sums tells hulld in one answer whether a directory is as it was: by a digest of
// all that would be said about its files. Other engines do not ask.
type sums struct {
	dirs map[string]fsutil.FS
	key  string // tells directories of one name apart
	// read: the files' contents count, for their attributes say nothing.
	read bool
}

// Register implements session.Attachable.
func (s *sums) Register(server *grpc.Server) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: api.ContextService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: api.ContextSum, Handler: s.handle}},
	}, s)
}

func (s *sums) handle(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in wrapperspb.BytesValue
	if err := decode(&in); err != nil {
		return nil, err
	}
	var sel api.ContextSelection
	if err := json.Unmarshal(in.Value, &sel); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	sum, err := s.sum(ctx, sel)
	return wrapperspb.String(sum), err
}

// sum is a digest of what fsutil would send of the selected files: two equal ones
// are a transfer in which nothing is sent.
func (s *sums) sum(ctx context.Context, sel api.ContextSelection) (string, error) {
	dir, ok := s.dirs[sel.Name]
	if !ok {
		return "", status.Errorf(codes.NotFound, "no access to directory %q", sel.Name)
	}
	dir, err := fsutil.NewFilterFS(dir, &fsutil.FilterOpt{IncludePatterns: sel.Include, ExcludePatterns: sel.Exclude, FollowPaths: sel.Follow})
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %t\n", s.key, sel.Name, s.read)
	var buf []byte
	err = fsutil.WithHardlinkReset(dir).Walk(ctx, string(os.PathSeparator), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*types.Stat)
		if !ok {
			return fmt.Errorf("%s: no attributes", path)
		}
		st.Uid, st.Gid = 0, 0 // as they are sent
		for _, k := range slices.Sorted(maps.Keys(st.Xattrs)) {
			fmt.Fprintf(h, "%q %q\n", k, st.Xattrs[k])
		}
		st.Xattrs = nil // their order is random
		size := st.SizeVT()
		buf = slices.Grow(buf[:0], size+8)[:size+8]
		binary.LittleEndian.PutUint64(buf, uint64(size)) //nolint:gosec // where one ends and the next begins
		if _, err := st.MarshalToSizedBufferVT(buf[8:]); err != nil {
			return err
		}
		h.Write(buf)
		if s.read && info.Mode().IsRegular() {
			return copyFile(h, dir, path)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func copyFile(w io.Writer, dir fsutil.FS, path string) error {
	f, err := dir.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}
