# The improved baseline of EFL with EQL in place of its loss.
_base_ = "../efl/atss_r50_fpn_efl-rfs_ms-8xb2-2x_lvis-v1.py"

model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type="EqualizationLoss", lambda_=1.1e-3, use_sigmoid=True)
    )
)
