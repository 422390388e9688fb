# Deformable convolutions in the last three stages of a backbone.
dconv = dict(
    dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
    stage_with_dcn=(False, True, True, True),
)
