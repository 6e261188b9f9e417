package pods

import (
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

// client-go's ends of a connection that is closed go a few seconds later.
func TestMain(m *testing.M) {
	klog.SetLogger(klog.Logger{}) // as main does: client-go logs what it returns
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"),
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}
