from tests.e2e.test_mime_fidelity import *
def test_it(gate):
    c = MESSAGES["a field longer than Postfix keeps"]
    out=[]
    for n in range(12):
        gate.use("", restart=False)
        out.append([max(map(len,x.split(b"\n"))) for x in queued(gate,[c,c],plain=n%2==0)])
    with open("/tmp/c5/s8/d.txt","w") as f: f.write(repr(out))
