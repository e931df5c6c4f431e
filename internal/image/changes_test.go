package image

import (
	"slices"
	"testing"
)

// TestChangesExpandVariables, as a Dockerfile does.
func TestChangesExpandVariables(t *testing.T) {
	t.Parallel()
	conf, err := applyChanges(runConfig{Env: []string{"PATH=/bin", "EMPTY="}}, []string{
		`ENV PATH=/usr/bin:$PATH OLD=${PATH}`,
		`ENV KEPT='$PATH' ALSO=\$PATH DEF=${NONE:-x} ALT=${PATH:+set}${EMPTY:+unset}`,
		`WORKDIR $DEF/y`, "USER ${NONE:-me}", `LABEL path="$PATH"`, "VOLUME /v/$DEF",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/usr/bin:/bin", "EMPTY=", "OLD=/bin", "KEPT=$PATH", "ALSO=$PATH", "DEF=x", "ALT=set"}
	if !slices.Equal(conf.Env, want) {
		t.Errorf("environment %q, want %q", conf.Env, want)
	}
	if _, ok := conf.Volumes["/v/x"]; conf.WorkingDir != "/x/y" || conf.User != "me" || conf.Labels["path"] != "/usr/bin:/bin" || !ok {
		t.Errorf("%+v", conf)
	}
}
